"""What every method and every head promises, as checks that run on one of your own; it imports no test runner.

Example:
    >>> import holdfast
    >>> from holdfast.testing import check_head, check_method
    >>> check_method(lambda model: holdfast.L2SP(model, strength=0.1))
    >>> check_head(lambda features: holdfast.heads.NCM(features))

With pytest, one test a promise: ``@pytest.mark.parametrize("check", CHECKS)`` (of a head, ``HEAD_CHECKS``), and in it
``check(make)``.
"""

from holdfast.testing.checks import CHECKS, Make, check_method
from holdfast.testing.heads import HEAD_CHECKS, MakeHead, check_head

__all__ = ["CHECKS", "HEAD_CHECKS", "Make", "MakeHead", "check_head", "check_method"]
