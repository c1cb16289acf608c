"""Why the kernel did not make a socket."""

import errno
import os

from nsbroker.model.socket_failure import REASONS, errno_of


def test_every_reason_stands_for_its_errno() -> None:
    for number in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EMFILE, errno.ENOBUFS, errno.ENOMEM, *REASONS):
        assert errno_of(REASONS.get(number, os.strerror(number))) == number


def test_other_texts_stand_for_none() -> None:
    assert errno_of("the moon was full") is None
