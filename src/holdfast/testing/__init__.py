"""What every method promises, as checks that run on a method of your own; it imports the core, and no test runner.

Example:
    >>> import holdfast
    >>> from holdfast.testing import check_method
    >>> check_method(lambda model: holdfast.L2SP(model, strength=0.1))

With pytest, one test a promise: ``@pytest.mark.parametrize("check", CHECKS)``, and in it ``check(make)``.
"""

from holdfast.testing.checks import CHECKS, Make, check_method

__all__ = ["CHECKS", "Make", "check_method"]
