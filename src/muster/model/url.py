"""URLs for people to read: without what nobody else may see; pure."""

import re
import urllib.parse


def shown(url: str) -> str:
    """Return a URL without user, password, parameters and fragment; of what is no URL, no more than is safe."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        parts = urllib.parse.SplitResult("", "", "", "", "")
    if parts.scheme and parts.netloc and "@" not in parts.path:
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    scheme, mark, rest = url.partition("://")
    if mark and "@" not in rest:
        return url
    if mark:
        return scheme + mark + re.split(r"[/?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return url if not {":", "@"} & set(url) else f"{url.partition(':')[0]}:…" if ":" in url else "…"
