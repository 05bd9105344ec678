"""The files of a container over SFTP, served by a process of our own, so that an image needs nothing for it.

``wire`` is the protocol's codec (version 3, draft-ietf-secsh-filexfer-02), ``files`` what is done to files, ``server``
answers one packet with another, ``worker`` speaks it on standard input and output, ``confine`` takes the worker into a
container, and ``python -P -I -m muster.engine.sftp`` is the process.
"""
