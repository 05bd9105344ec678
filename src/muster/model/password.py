"""The root password of a container: drawn by the platform, shown by the API, checked by the SSH gateway.

The gateway is told a salted SHA-256 only. A slow hash would protect nothing: the password is 95 random bits, so there
is nothing to guess; and a container would be placed 50 ms later for it. What slows down guessing over the network is
the gateway, which answers a wrong one late and counts it.
"""

import hashlib
import hmac

PASSWORD_LENGTH = 16
_SCHEME = "sha256"


def hash_password(password: str, salt: str) -> str:
    """Return ``sha256$salt$digest``."""
    digest = hashlib.sha256(f"{salt}${password}".encode()).hexdigest()
    return f"{_SCHEME}${salt}${digest}"


def is_password(password: str, hashed: str) -> bool:
    """Tell whether a password is the one that was hashed; nothing is the password of an empty or unknown hash."""
    scheme, _, rest = hashed.partition("$")
    salt, _, digest = rest.partition("$")
    if scheme != _SCHEME or not digest:
        return False
    return hmac.compare_digest(hash_password(password, salt), hashed)
