# Becomes the command that the file of the first argument holds: by bash where there is one. Builtins only, because the
# command's PATH may be anything by now.

_muster_text=
while IFS= read -r _muster_each || [ -n "$_muster_each" ]; do
    _muster_text="$_muster_text$_muster_each
"
done <"$1"
set -- "$_muster_text"
unset _muster_text _muster_each
if command -v bash >/dev/null 2>&1; then
    exec bash -c "$1"
fi
exec /bin/sh -c "$1"
