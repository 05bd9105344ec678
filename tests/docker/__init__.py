"""Docker for tests: daemons of their own, images made on the spot, a registry, GPUs that are none.

```
@pytest.mark.docker  # is slow; fails in CI on a machine without Docker, is skipped elsewhere; may reach 10.0.0.0/8
def test_a_shell_says_hello(docker_daemon: Daemon) -> None:
    assert docker_daemon.docker("run", "--rm", BASH, "bash", "-c", "echo hello") == "hello"
```
* ``fixtures``: ``docker_daemon``, one for the whole run, with images ``BUSYBOX`` and ``BASH``, emptied after each test:
  never stop or kill it. ``own_daemon``, a function: options → a started daemon of this test's own, to kill and fill.
  ``registry``, an empty one. ``python_image``, the name of one with Python, in the shared daemon.
* ``daemon.Daemon``: ``url`` for the engine, ``docker(...)`` for all else; its text tells about isolation and restarts.
* ``images``: ``busybox``, ``bash``, ``sized``, and ``python_image.python`` (Debian with Python, cached in
  ``~/.cache/muster-tests`` or ``$MUSTER_TEST_CACHE``) → ``Image``, for ``daemon.load`` or ``registry.push``.
* ``registry.Registry``: a private registry on loopback, with a password if asked, that counts what is pulled from it.
* ``gpu``: every daemon has a stand-in for NVIDIA's runtime hook, so ``--gpus`` works, and a container that got indices
  1 and 3 reads ``1,3`` in ``gpu.VISIBLE``; give ``own_daemon`` ``path=()`` for a host without.
"""
