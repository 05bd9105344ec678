"""Warnings about start commands, on a corpus of good ones and bad ones."""

import pytest

from muster.planner.lint import Code, lint, repaired

HERE_DOCUMENT = """cat > /root/run.py <<'EOF'
if True: print("a && b || c & ; conda activate x") # don't
EOF
python /root/run.py"""

GOOD = (
    "sleep infinity",
    "cd /root && python ocr.py --shard ${AutoDLContainerUUID}",
    "cd /root; python train.py > /root/autodl-fs/log.txt 2>&1",
    "cd /root/app\npython serve.py --port 6006",
    "python /root/serve.py",
    "python ~/serve.py",
    'python "$HOME/serve.py"',
    "python -m http.server 6006",
    "python -um vllm.entrypoints.openai.api_server --model /root/m",
    'python -c "print(1 & 2); import os"',
    "python -W ignore /root/a.py",
    "vllm serve /root/model --port 6006",
    "exec vllm serve /root/model",
    "uvicorn app:main --host 0.0.0.0 --port 6006",
    "nginx -g 'daemon off;'",
    "/root/miniconda3/envs/tf/bin/python /root/a.py",
    "conda run --no-capture-output -n tf python /root/a.py",
    "source /root/miniconda3/etc/profile.d/conda.sh && conda activate tf && python /root/a.py",
    "source /root/miniconda3/bin/activate tf; python /root/a.py",
    'eval "$(conda shell.bash hook)"; conda activate tf; python /root/a.py',
    "bash -lc 'conda activate tf && python a.py'",
    "redis-server & exec python /root/worker.py",
    "python /root/a.py & python /root/b.py & wait",
    "python /root/a.py & python /root/b.py & wait -n; exit $?",
    "for i in 0 1 2; do CUDA_VISIBLE_DEVICES=$i python /root/a.py & done; wait",
    "for i in 0 1 2; do CUDA_VISIBLE_DEVICES=$i python /root/a.py & done\nwait",
    "python /root/a.py > log 2>&1 & tail -f log",
    "python /root/a.py &> /root/log",
    "python /root/a.py >& /root/log",
    "nohup python /root/server.py > /root/log 2>&1 &\nsleep infinity",
    "while true; do python /root/a.py; sleep 5; done",
    "while true; do python /root/a.py & sleep 600; done",
    "until curl -s localhost:6006; do sleep 1; done & python /root/a.py",
    "(sleep 60; touch /tmp/ready) & python /root/a.py",
    "if [ -f /root/a.py ]; then python /root/a.py; else sleep infinity; fi",
    'if [ -n "$X" ]; then python /root/a.py & fi; python /root/b.py',
    "[ -d /data ] && echo yes || mkdir /data; sleep infinity",
    "cd /root && python a.py || exit 3",
    "mkdir -p /data && cd /data && python a.py || sleep infinity",
    "cd /root && python a.py || python fallback.py",
    "python /root/a.py || python /root/b.py",
    "python /root/a.py && python /root/b.py",
    "a=$(ls /x && echo y || echo z); python /root/a.py",
    "python /root/a.py --prompt 'a && b || c'",
    'echo "conda activate tf"; sleep infinity',
    "# conda activate tf &\nsleep infinity",
    "sleep infinity # python a.py &",
    HERE_DOCUMENT,
    "cat <<-EOF\n\tpython a.py &\n\tEOF\nsleep infinity",
    "git clone https://example.org/x/repo && python repo/a.py",
    "wget https://example.org/run.sh && bash run.sh",
    "cat > run.py < /root/template && python run.py",
    "case $ROLE in server) exec vllm serve /m;; *) sleep infinity;; esac",
    "case $ROLE in a) python /root/a.py & ;; esac; wait",
    "main() { python a.py & }; main; wait",
    "((x = 1 & 3)); for ((i = 0; i < 3; i++)); do python /root/a.py $i; done",
    "[[ $a == b && $c =~ ^(x|y)$ || $d ]] && sleep infinity",
    "python /root/a.py 2>&1 | tee /root/log",
    "echo 'print(1)' | python",
    "python < /root/a.py",
    "python <<EOF\nprint(1)\nEOF",
    "bash /root/run.sh",
    "sh -c 'echo $0; sleep 100'",
    "torchrun --nproc_per_node 2 /root/train.py",
    "accelerate launch --config_file c.yaml /root/train.py",
    "timeout 5h python /root/a.py",
    "supervisord -n -c /etc/supervisord.conf",
    "x='it'\"'\"'s'; sleep infinity",
    "echo 你好，世界；再见; sleep infinity",
    'python /root/a.py --text "“quoted”"',
    "for i in 1 2; do python /root/a.py $i; done",
    "cd /root && \\\n  python a.py \\\n  --lr 1",
    "diff <(ls /a) <(ls /b); sleep infinity",
    "tmux new -d -s x 'python a.py'; sleep infinity",
    "!(false) && sleep infinity",
    "x=(a b c); echo ${x[@]} ${#x}; sleep infinity",
)

BAD = (
    ("python /root/a.py &", {Code.BACKGROUND}),
    ("cd /root && python a.py &", {Code.BACKGROUND}),
    ("cd /root; nohup python -u a.py > log 2>&1 &", {Code.BACKGROUND}),
    ("nohup python /root/a.py >/root/log 2>&1 & disown", {Code.BACKGROUND}),
    ("nohup python /root/a.py >/root/log 2>&1 & echo started", {Code.BACKGROUND}),
    ("python /root/a.py & python /root/b.py &", {Code.BACKGROUND}),
    ("python /root/a.py &\npython /root/b.py &\n", {Code.BACKGROUND}),
    ("sleep infinity &", {Code.BACKGROUND}),
    ("python /root/a.py & # in the background", {Code.BACKGROUND}),
    ("(python /root/a.py &)", {Code.BACKGROUND}),
    ("{ python /root/a.py & }", {Code.BACKGROUND}),
    ("for i in 0 1; do python /root/a.py $i & done", {Code.BACKGROUND}),
    ("for i in 0 1\ndo\n  python /root/a.py $i &\n  sleep 2\ndone", {Code.BACKGROUND}),
    ("if true; then python /root/a.py & else echo no; fi", {Code.BACKGROUND}),
    ("wait; python /root/a.py &", {Code.BACKGROUND}),
    ("screen -dmS x python /root/a.py", {Code.BACKGROUND}),
    ("tmux new-session -d 'python /root/a.py'", {Code.BACKGROUND}),
    ("service nginx start", {Code.BACKGROUND}),
    ("gunicorn -D app:app", {Code.BACKGROUND}),
    ("nginx", {Code.BACKGROUND}),
    ("cd /root && python a.py &; python b.py", {Code.AMPERSAND_SEMICOLON}),
    ("python /root/a.py & ; python /root/b.py &;", {Code.AMPERSAND_SEMICOLON, Code.BACKGROUND}),
    ("conda activate tf && python /root/a.py", {Code.CONDA_ACTIVATE}),
    ("cd /root; conda activate tf; python a.py", {Code.CONDA_ACTIVATE}),
    ("if true; then conda activate tf; fi; sleep infinity", {Code.CONDA_ACTIVATE}),
    ("python serve.py", {Code.RELATIVE_PATH}),
    ("python3.10 -u train.py --lr 1", {Code.RELATIVE_PATH}),
    ("./run.sh", {Code.RELATIVE_PATH}),
    ("bash x.sh", {Code.RELATIVE_PATH}),
    ("bash -ex scripts/x.sh", {Code.RELATIVE_PATH}),
    ("source env.sh; python /root/a.py", {Code.RELATIVE_PATH}),
    ("pip install -r /root/requirements.txt && python train.py", {Code.RELATIVE_PATH}),
    ("CUDA_VISIBLE_DEVICES=0 nohup python train.py", {Code.RELATIVE_PATH}),
    ("timeout -k 5 1h python train.py", {Code.RELATIVE_PATH}),
    ("torchrun --nproc_per_node 2 train.py", {Code.RELATIVE_PATH}),
    ("conda run -n tf python train.py", {Code.RELATIVE_PATH}),
    ("bin/server --port 6006", {Code.RELATIVE_PATH}),
    ("python /root/a.py && python /root/b.py || python /root/c.py", {Code.AND_OR}),
    ("[ -f /root/x ] && python /root/a.py || python /root/b.py", {Code.AND_OR}),
    ("systemctl start nginx; sleep infinity", {Code.SYSTEMCTL}),
    ("python /root/a.py; /usr/bin/shutdown", {Code.SHUTDOWN}),
    ("python /root/a.py && shutdown -h now", {Code.SHUTDOWN}),
    ("bash", {Code.NO_TERMINAL}),
    ("/bin/bash", {Code.NO_TERMINAL}),
    ("python /root/a.py; exec bash -i", {Code.NO_TERMINAL}),
    ("cd /root\r\npython a.py\r\n", {Code.LINE_ENDINGS}),
    ("python /root/a.py –lr 1", {Code.TYPOGRAPHY}),
    ("python /root/a.py --name “x”", {Code.TYPOGRAPHY}),
    ("cd /root；python /root/a.py", {Code.TYPOGRAPHY}),
    ("cd /root＆＆python /root/a.py", {Code.TYPOGRAPHY}),
    ("python\u00a0/root/a.py", {Code.TYPOGRAPHY}),
    ("nohup python train.py &", {Code.BACKGROUND, Code.RELATIVE_PATH}),
    ("conda activate tf; nohup python train.py &", {Code.CONDA_ACTIVATE, Code.BACKGROUND, Code.RELATIVE_PATH}),
)


@pytest.mark.parametrize("cmd", GOOD)
def test_a_good_command_is_left_in_peace(cmd: str) -> None:
    assert lint(cmd) == ()
    assert repaired(cmd) is None


@pytest.mark.parametrize(("cmd", "codes"), BAD)
def test_a_bad_command_gets_its_warnings_and_no_other(cmd: str, codes: set[Code]) -> None:
    warnings = lint(cmd)
    assert {each.code for each in warnings} == codes
    assert len(warnings) == len(codes), "each is told once"


def test_a_warning_says_where_and_what() -> None:
    (warning,) = lint("cd /root\n# first\nnohup python a.py \\\n  --lr 1 > log 2>&1 &\necho started\n")
    assert (warning.line, warning.snippet) == (3, "nohup python a.py \\ --lr 1 > log 2>&1 &")
    assert warning.message.startswith("`nohup python a.py \\ --lr 1 > log 2>&1 &` runs in the background and nothing")


def test_a_long_command_is_cut_in_the_warning() -> None:
    (warning,) = lint(f"python /root/a.py {'x' * 200} &")
    assert len(warning.snippet) <= 61
    assert warning.snippet.endswith("…")


def test_the_environment_is_named_in_what_to_write_instead() -> None:
    (warning,) = lint("conda activate my-env_1.0 && python /root/a.py")
    assert "/root/miniconda3/envs/my-env_1.0/bin/python" in warning.message
    assert "conda run -n my-env_1.0 python" in warning.message


@pytest.mark.parametrize(
    ("cmd", "expected"),
    [
        ("a &; b", "a & b"),
        ("a & ; b &;", "a &  b &"),
        ("echo '&;'", None),
        ('echo "&;" # &;', None),
        ("case x in x) a &;; esac", None),
        ("cat <<EOF\n&;\nEOF\na &; b", "cat <<EOF\n&;\nEOF\na & b"),
        ("echo 'never closed &; ", None),
    ],
)
def test_ampersand_semicolon_is_repaired_outside_of_quotes_only(cmd: str, expected: str | None) -> None:
    assert repaired(cmd) == expected
