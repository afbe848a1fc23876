import pytest

from ai_task_processor.domain.errors import AuthenticationFailed, TaskApiError, TaskApiRejected, TaskApiUnavailable
from ai_task_processor.domain.ports import Receipt
from ai_task_processor.task_api.answers import Answer, Unreachable, page_of, receipt_of, retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "receipt"),
    [
        (200, Receipt.TAKEN),
        (201, Receipt.TAKEN),
        (204, Receipt.TAKEN),
        (404, Receipt.GONE),
        (410, Receipt.GONE),
        (409, Receipt.CONFLICT),
    ],
)
def test_receipts(status: int, receipt: Receipt) -> None:
    assert receipt_of(Answer(status, b'{"message": "Task a not found"}')) is receipt


@pytest.mark.parametrize("incomplete", ["broke off: ReadError", "is larger than 1 MB"])
def test_a_receipt_does_not_need_its_body(incomplete: str) -> None:
    assert receipt_of(Answer(200, incomplete=incomplete)) is Receipt.TAKEN


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, TaskApiRejected),
        (405, TaskApiRejected),
        (413, TaskApiRejected),
        (422, TaskApiRejected),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (301, Unreachable),
        (307, Unreachable),
        (408, TaskApiUnavailable),
        (425, TaskApiUnavailable),
        (429, TaskApiUnavailable),
        (500, TaskApiUnavailable),
        (501, TaskApiUnavailable),
        (502, Unreachable),
        (503, Unreachable),
        (504, Unreachable),
        (520, TaskApiUnavailable),
        (999, TaskApiUnavailable),
    ],
)
def test_errors_of_a_patch_and_which_count_for_the_breaker(status: int, error: type[TaskApiError]) -> None:
    with pytest.raises(TaskApiError, match=f"HTTP {status}") as caught:
        receipt_of(Answer(status))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, TaskApiRejected),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, Unreachable),
        (302, Unreachable),
        (408, Unreachable),
        (425, Unreachable),
        (429, TaskApiUnavailable),
        (500, Unreachable),
        (503, Unreachable),
    ],
)
def test_errors_of_a_fetch_and_which_count_for_the_breaker(status: int, error: type[TaskApiError]) -> None:
    with pytest.raises(TaskApiError, match=f"HTTP {status}") as caught:
        page_of(Answer(status))
    assert type(caught.value) is error


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_says_when_does_not_count_for_the_breaker(status: int) -> None:
    for judge in (page_of, receipt_of):
        with pytest.raises(TaskApiUnavailable) as caught:
            judge(Answer(status, retry_after=7.0))
        assert type(caught.value) is TaskApiUnavailable
        assert caught.value.retry_after == 7.0


@pytest.mark.parametrize("status", [302, 404, 410])
def test_a_list_that_is_not_there_points_at_the_address(status: int) -> None:
    with pytest.raises(TaskApiUnavailable, match="check API_BASE_URL"):
        page_of(Answer(status))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<!DOCTYPE html><html>Back soon</html>"),
        (200, b"\n  <html>"),
        (404, b"<html><title>404 Not Found</title></html>"),
        (404, b'{"statusCode":404,"message":"Cannot PATCH /wrong/api/ai-tasks/a","error":"Not Found"}'),
        (404, b"default backend - 404"),
    ],
)
def test_what_others_than_the_api_answer_says_nothing_about_the_task(status: int, body: bytes) -> None:
    with pytest.raises(Unreachable, match="check API_BASE_URL"):
        receipt_of(Answer(status, body))


def test_a_web_page_instead_of_the_list() -> None:
    with pytest.raises(Unreachable, match="a web page came"):
        page_of(Answer(200, b"<!DOCTYPE html><html></html>"))


def test_no_content_is_an_empty_list() -> None:
    assert page_of(Answer(204)) == b"[]"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"message": "result must be an array"}', "HTTP 400: result must be an array"),
        (b'{"message": ["a is bad", "b is bad"], "error": "Bad Request"}', "HTTP 400: a is bad; b is bad"),
        (b'{"detail": "no"}', "HTTP 400: no"),
        (b"plain\n words \x1b[31m", "HTTP 400: plain words [31m"),
        (b"<html>page</html>", "(HTTP 400)"),
        (b"", "(HTTP 400)"),
        (b"[1, 2]", "(HTTP 400: 1; 2)"),
        (b"{}", "(HTTP 400)"),
        (b"\xff", "HTTP 400: \ufffd"),
    ],
)
def test_the_servers_words_are_passed_on(body: bytes, said: str) -> None:
    with pytest.raises(TaskApiRejected) as caught:
        receipt_of(Answer(400, body))
    assert said in str(caught.value)


def test_the_servers_words_are_bounded() -> None:
    with pytest.raises(TaskApiRejected) as caught:
        receipt_of(Answer(400, b"x" * 100_000))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("99999999999999", 86_400.0),
        ("Tue, 14 Nov 2023 22:15:20 GMT", 120.0),
        ("Tue, 14 Nov 2023 22:15:20", 120.0),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:00:00 GMT", None),
        ("٣", None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds
