"""The command line."""

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from enum import IntEnum, StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from ai_task_processor import __version__
from ai_task_processor.domain.errors import ConfigurationError, JournalError, TaskProcessorError
from ai_task_processor.journal.state import State

app = typer.Typer(
    name="ai-task-processor",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

journal = typer.Typer(
    name="journal",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at the journal, and send results again; while the daemon runs, and when it does not.",
)
app.add_typer(journal)

spaces = typer.Typer(
    name="spaces",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Look at the embedding spaces: which model has answered for which name. Vectors of two are not comparable.",
)
app.add_typer(spaces)

AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")]
EnvFile = Annotated[Path, typer.Option("--env-file", help="File with settings; the environment goes before it.")]

DEFAULT_ENV_FILE = Path(".env")


class ExitCode(IntEnum):
    """What the process ends with; the larger numbers as in sysexits.h."""

    OK = 0
    FAILED = 1
    UNREACHABLE = 69
    DEFECT = 70
    STATE = 74
    CONFIGURATION = 78


class Mode(StrEnum):
    """Engines that the demonstration can use."""

    LOCAL = "local"
    MOCK = "mock"
    OPENAI = "openai"
    OLLAMA = "ollama"
    HYBRID = "hybrid"


def main(command: Callable[[], None] | None = None) -> None:
    """Run the command line, or ``command`` in its place.

    Errors that a person can mend are told in words, with an exit code of their own; any other is a defect of ours and
    goes to the log with its traceback.
    """
    try:
        (command or app)()
    except ConfigurationError as error:
        _end("The configuration cannot be used:", error.faults, code=ExitCode.CONFIGURATION)
    except JournalError as error:
        _end("The state cannot be used:", [str(error)], code=ExitCode.STATE)
    except TaskProcessorError as error:
        _end("It cannot be done:", [str(error)], code=ExitCode.FAILED)
    except Exception as error:  # the last one who can tell of it
        logging.getLogger(__name__).critical("Crashed: a defect, please report it", exc_info=error)
        sys.exit(ExitCode.DEFECT)


@app.callback(invoke_without_command=True)
def about(
    *, version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)] = False
) -> None:
    """Do the AI tasks that an application collects: nothing lost, nothing paid for twice.

    Start with `demo` to see the whole flow on this machine, then fill in `.env` (every setting is in `.env.example`),
    try it with `check`, and start the daemon with `run`.
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def run(env_file: EnvFile = DEFAULT_ENV_FILE) -> None:
    """Run the daemon until it is told to stop.

    It gets tokens, polls the Task API, has the tasks done by the provider of `PROCESSING_MODE`, and reports every
    result. Results wait in the journal (`STATE_URL`) until the API has taken them, across restarts.

    **Signals.** SIGTERM or SIGINT: take nothing new, finish and deliver what is held, exit within
    `SHUTDOWN_GRACE_SECONDS`. The same signal again: exit at once; what was not finished is taken up at the next start.

    SIGUSR1: poll the API now. SIGHUP: read `.env` and secret files again; limits, `POLLING_INTERVAL_SECONDS`,
    `SUPPORTED_MODELS` and `LOG_LEVEL` may change, anything else is refused as a whole.

    **Routes** on `METRICS_HOST:METRICS_PORT`: `/` is a status page for people, `/status` the same as JSON; `/health`,
    `/ready` and `/metrics` are for machines; with `POLL_TOKEN` also `POST /poll`, `/pause` and `/resume`.

    **Exit codes.** 0 stopped as asked; 70 a defect; 74 the state file cannot be used; 78 the configuration cannot be
    used (every fault is listed).
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_before_start)
    for number in (signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # until it means something: it does not mean an end
    gc.disable()  # nothing of what is imported is garbage, and to look for some takes a twelfth of the start
    from ai_task_processor.daemon import run_daemon  # noqa: PLC0415  # each command imports what it needs
    from ai_task_processor.settings import Settings, load_settings  # noqa: PLC0415

    gc.enable()

    def reread(before: Settings) -> Settings:
        return load_settings(_existing(env_file), before=before)

    try:
        run_daemon(load_settings(_existing(env_file)), reread=reread)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending: one more wish is not to look like a crash


@app.command()
def serve(
    *,
    host: Annotated[
        str, typer.Option(help="Interface to listen on; anything but loopback lets others in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8090,
    database: Annotated[Path, typer.Option(help="SQLite file that holds the tasks.")] = Path("data/task-server.db"),
    token_seconds: Annotated[int, typer.Option(min=3, help="How long a token is good for.")] = 900,
    client_id: Annotated[
        str | None, typer.Option(envvar="TASK_SERVER_CLIENT_ID", help="Id that clients must give.")
    ] = None,
    client_secret: Annotated[str | None, typer.Option(envvar="TASK_SERVER_CLIENT_SECRET", hidden=True)] = None,
) -> None:
    """Run a task server: the Task API's contract from the other side, for those who have no API of their own.

    It takes tasks (`POST /api/ai-tasks`, one or many, JSON or JSON Lines), lists the pending ones, takes results, and
    issues the tokens for all of that (`POST /oauth2/token`, client credentials).

    The client's id and secret come from `TASK_SERVER_CLIENT_ID` and `TASK_SERVER_CLIENT_SECRET`; where they are not
    given, a pair is made once, kept beside the database (readable by its owner only), and shown.
    """
    from ai_task_processor.serve import serve_tasks  # noqa: PLC0415

    serve_tasks(
        host=host,
        port=port,
        database=database,
        token_seconds=token_seconds,
        client_id=client_id,
        client_secret=client_secret,
    )


@app.command()
def check(
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    as_json: AsJson = False,
) -> None:
    """Try everything that `run` needs, and say what to do about what does not work.

    Checks the configuration, the token, the Task API, the provider, its models, and the state. Nothing is changed: no
    task is taken, one short word is embedded. Exit code 0 if `run` would work, 1 if not, 78 if the configuration is
    not usable.
    """
    from ai_task_processor.doctor import examine  # noqa: PLC0415
    from ai_task_processor.settings import load_settings  # noqa: PLC0415

    raise typer.Exit(examine(load_settings(_existing(env_file)), as_json=as_json))


@app.command()
def health(
    url: Annotated[
        str | None, typer.Option(help="What to ask.", show_default="/health at METRICS_HOST and METRICS_PORT")
    ] = None,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds until an answer counts as none.")] = 3.0,
) -> None:
    """Ask a running daemon whether it is alive, and print its answer, which is JSON.

    Exit code 0 if it is, 1 if not. For supervisors that run a command; `python -m ai_task_processor.health` does the
    same in a third of the time. `METRICS_HOST` and `METRICS_PORT` are taken from the environment, not from `.env`.
    """
    from ai_task_processor.health import ask  # noqa: PLC0415

    raise typer.Exit(ask(url, patience=patience))


@app.command()
def status(
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    url: Annotated[
        str | None, typer.Option(help="Address of the daemon.", show_default="METRICS_HOST and METRICS_PORT")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every other second.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how the running daemon is: what it does, what it waits for, limits, money, failures, parked tasks.

    The facts are those of the status page at the address itself. With `--watch` and `--json` each look is one line.

    **Exit codes.** 0 ready; 1 not ready; 69 no daemon answers.
    """
    from ai_task_processor.settings import load_ops_url  # noqa: PLC0415
    from ai_task_processor.status import Unreachable, show_status, watch_status  # noqa: PLC0415

    where = url or load_ops_url(_existing(env_file))
    try:
        if watch:
            watch_status(where, as_json=as_json)
        elif not show_status(where, as_json=as_json):
            raise typer.Exit(ExitCode.FAILED)
    except Unreachable as error:
        _end("It cannot be shown:", [str(error)], code=ExitCode.UNREACHABLE)


@app.command()
def pause(env_file: EnvFile = DEFAULT_ENV_FILE, *, as_json: AsJson = False) -> None:
    """Have the running daemon take nothing new; what it holds is finished and delivered.

    It stays alive and ready, and is as it was after `resume`, or after a restart. Needs the `POLL_TOKEN`,
    `METRICS_HOST` and `METRICS_PORT` of the daemon.
    """
    _ask("pause", env_file, as_json=as_json)


@app.command()
def resume(env_file: EnvFile = DEFAULT_ENV_FILE, *, as_json: AsJson = False) -> None:
    """Have the running daemon take new tasks again, after `pause`; it polls at once."""
    _ask("resume", env_file, as_json=as_json)


@app.command()
def demo(
    file: Annotated[
        Path | None,
        typer.Argument(help="Texts to embed: .txt (one per line), .csv or .jsonl.", show_default="shipped claims"),
    ] = None,
    *,
    mode: Annotated[Mode, typer.Option(help="Engine; all but local and mock need their settings.")] = Mode.LOCAL,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running and print the addresses.")] = False,
) -> None:
    """Watch the whole flow on this machine: a task server and the daemon, with real texts and real vectors.

    Texts are posted to the task server as tasks; the daemon fetches, embeds and reports them. At the end there is a
    summary, and for two of the texts their nearest neighbours, so that one sees that the vectors mean something.

    Everything listens on loopback only, and is kept in a temporary folder.
    """
    from ai_task_processor.demo.run import demonstrate  # noqa: PLC0415

    raise typer.Exit(demonstrate(file, mode=mode.value, keep=keep))


@journal.command("list")
def journal_list(
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    state: Annotated[list[State] | None, typer.Option(help="Only rows in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown, at most.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Show the rows that are not finished: waiting, being performed, undelivered, parked."""
    from ai_task_processor.state_commands import list_rows  # noqa: PLC0415

    list_rows(_state_location(env_file), state or sorted(set(State) - {State.REPORTED}), limit=limit, as_json=as_json)


@journal.command("show")
def journal_show(
    task_id: Annotated[str, typer.Argument(help="Id of a task.")],
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    as_json: AsJson = False,
) -> None:
    """Show everything that is known of one task, except its text and its result."""
    from ai_task_processor.state_commands import show_row  # noqa: PLC0415

    show_row(_state_location(env_file), task_id, as_json=as_json)


@journal.command("retry")
def journal_retry(
    task_ids: Annotated[list[str] | None, typer.Argument(help="Ids of tasks; none means all that are parked.")] = None,
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    as_json: AsJson = False,
) -> None:
    """Send parked results again, and let rows that wait for a later time wait no longer.

    To be used after what the API refused has been mended. A running daemon sees it within seconds.
    """
    from ai_task_processor.state_commands import retry_rows  # noqa: PLC0415

    retry_rows(_state_location(env_file), task_ids or [], as_json=as_json)


@journal.command("export")
def journal_export(
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    texts: Annotated[
        bool, typer.Option("--texts", help="With contents and results, which may be confidential.")
    ] = False,
) -> None:
    """Print every row as a line of JSON."""
    from ai_task_processor.state_commands import export_rows  # noqa: PLC0415

    export_rows(_state_location(env_file), texts=texts)


@spaces.command("list")
def spaces_list(env_file: EnvFile = DEFAULT_ENV_FILE, *, as_json: AsJson = False) -> None:
    """Show which provider and model have answered for each model name, and with how many dimensions."""
    from ai_task_processor.state_commands import list_spaces  # noqa: PLC0415

    list_spaces(_state_location(env_file), as_json=as_json)


@spaces.command("forget")
def spaces_forget(
    model: Annotated[str, typer.Argument(help="Name of a model.")],
    env_file: EnvFile = DEFAULT_ENV_FILE,
    *,
    as_json: AsJson = False,
) -> None:
    """Forget what is known of a model, so that another length of its vectors is believed.

    To be used after a model was replaced by another under the same name on purpose, with the daemon stopped. Vectors
    made before are not comparable with those made from then on.
    """
    from ai_task_processor.state_commands import forget_spaces  # noqa: PLC0415

    forget_spaces(_state_location(env_file), model, as_json=as_json)


def _ask(wish: str, env_file: Path, *, as_json: bool) -> None:
    from ai_task_processor.remote import ask  # noqa: PLC0415
    from ai_task_processor.settings import load_access  # noqa: PLC0415

    status = ask(wish, load_access(_existing(env_file)))
    typer.echo(json.dumps({"status": status}) if as_json else status)


def _state_location(env_file: Path) -> str:
    from ai_task_processor.settings import load_state_location  # noqa: PLC0415

    return load_state_location(_existing(env_file))


def _existing(env_file: Path) -> Path | None:
    """Refuse a file that was named and is not there; the default one may be missing."""
    if env_file.is_file():
        return env_file
    if env_file != DEFAULT_ENV_FILE:
        raise ConfigurationError([f"--env-file: there is no file {str(env_file)!r}"])
    return None


def _stop_before_start(_number: int, _frame: FrameType | None) -> NoReturn:
    """Nothing runs yet, so there is nothing to finish."""
    os._exit(ExitCode.OK)


def _end(headline: str, lines: Iterable[str], *, code: ExitCode) -> NoReturn:
    print(headline, *(f"  {line}" for line in lines), sep="\n", file=sys.stderr)  # noqa: T201  # words for the person who typed
    sys.exit(code)
