# The start of every container: prepares the environment of its command.
#
# Run by the image's own /bin/sh as the child of an init that reaps, and forwards signals to the whole process group.
# What belongs to this run lies in /.muster/run, which Muster writes anew before each start, so that a container that is
# used again gets another command and another environment although Docker keeps both as they were. Besides builtins only
# mkdir is used. Names of variables are ours alone: the image may have any other.

unset TINI_KILL_PROCESS_GROUP
. /.muster/run/run

# A start that was ordered twice, by a Muster that died in between, must not run the command twice.
if ! mkdir "/.muster/state/$_muster_token" 2>/dev/null && [ -d "/.muster/state/$_muster_token" ]; then
    mkdir "/.muster/state/$_muster_token.again" 2>/dev/null
    exit 254
fi

read -r _muster_name </etc/hostname
while read -r _muster_address _muster_names; do
    for _muster_each in $_muster_names; do
        [ "$_muster_each" = "$_muster_name" ] && _muster_own=$_muster_address
    done
done </etc/hosts

# One line for each variable, which users look for with grep. Without an ingress nobody but we knows the addresses.
_muster_is_addressed=
while IFS= read -r _muster_each; do
    case $_muster_each in "export AutoDLServiceURL="*) _muster_is_addressed=1 ;; esac
done </.muster/run/platform
_muster_tell() {
    [ -n "$_muster_is_addressed" ] || {
        echo "export AutoDLServiceURL=http://$_muster_own:6006"
        echo "export AutoDLService6006URL=http://$_muster_own:6006"
        echo "export AutoDLService6008URL=http://$_muster_own:6008"
    }
    while IFS= read -r _muster_each; do
        printf '%s\n' "$_muster_each"
    done </.muster/run/platform
}
mkdir -p /etc/profile.d /init/others 2>/dev/null
_muster_tell >/init/others/help
{
    _muster_tell
    echo 'if [ -r /.muster/run/env ]; then . /.muster/run/env; fi'
} >/etc/profile.d/autodl.env.sh

# What a shell says of a child that was told to end ("Terminated") is not the command's.
exec /bin/sh /.muster/run/stay.sh 3>&2 2>/dev/null
