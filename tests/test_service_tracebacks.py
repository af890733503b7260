"""Errors that are kept must not keep what they went through."""

import traceback

from service.tracebacks import drop_tracebacks


def failed(cause: Exception) -> Exception:
    """An error that came from another one, both with tracebacks."""
    try:
        try:
            raise cause
        except ValueError as error:
            raise RuntimeError("it failed") from error
    except RuntimeError as error:
        return error


def test_no_error_of_a_chain_keeps_its_frames_but_each_still_says_where_it_came_from() -> None:
    error = failed(ValueError("the real cause"))
    cause = error.__cause__
    assert cause
    assert [one.__traceback__ is None for one in (error, cause)] == [False, False]
    drop_tracebacks(error)
    assert [one.__traceback__ is None for one in (error, cause)] == [True, True]
    assert "the real cause" in "".join(traceback.format_exception(error))


def test_a_chain_that_leads_back_to_its_beginning_ends() -> None:
    error = failed(ValueError("the real cause"))
    assert error.__cause__
    error.__cause__.__context__ = error
    drop_tracebacks(error)
    assert error.__traceback__ is None
