# Runs a command in the environment and the folder of the container's own. Its words are the arguments.

unset TINI_KILL_PROCESS_GROUP
[ "$HOME" = / ] && [ -d /root ] && export HOME=/root # without a passwd file Docker gives / as the home
if [ -r /etc/profile.d/autodl.env.sh ]; then
    . /etc/profile.d/autodl.env.sh
else  # an image in which nothing can be written there
    . /.muster/run/platform
    . /.muster/run/env
fi
cd /root 2>/dev/null || cd /
exec "$@"
