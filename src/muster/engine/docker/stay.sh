# Runs the command and ends as it ends; its messages go to 3.
#
# This shell must outlive what the command started, because its end is the container's. Told to end, the command's shell
# is often gone at once, while what it had run (a script, the first of a pipe) is still about to end well: the init has
# told them all. Used besides builtins: sleep.

has_company() { # whether anybody else of our process group lives; behind its name stat has state, parent, group
    read -r stat <"/proc/$$/stat"
    set -- ${stat##*) }
    group=$3
    for process in /proc/[0-9]*; do
        [ "$process" = "/proc/$$" ] && continue
        read -r stat <"$process/stat" || continue
        set -- ${stat##*) }
        [ "$3" = "$group" ] && [ "$1" != Z ] && return 0
    done
    return 1
}

_muster_is_told=
trap '_muster_is_told=1' TERM
trap : HUP INT QUIT USR1 USR2
(exec 2>&3 3>&- && exec /bin/sh /.muster/run/exec.sh /bin/sh /.muster/run/shell.sh /.muster/run/command)
code=$?
while [ -n "$_muster_is_told" ] && has_company; do
    sleep 0.05 || sleep 1 || break
done
exit $code
