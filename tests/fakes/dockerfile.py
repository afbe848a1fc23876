"""What the Dockerfile says of the image that is made in its last stage."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """The instructions of the last stage in order, each with its arguments as they stand."""

    instructions: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def one(self, name: str) -> str:
        (arguments,) = self.all(name)
        return arguments

    def command(self, name: str) -> list[str]:
        """An instruction in exec form; raises where it is not."""
        return [str(word) for word in json.loads(self.one(name).partition("[")[1] + self.one(name).partition("[")[2])]

    @property
    def environment(self) -> dict[str, str]:
        pairs = [pair.partition("=") for arguments in self.all("ENV") for pair in shlex.split(arguments)]
        return {name: value for name, _, value in pairs}

    @property
    def labels(self) -> dict[str, str]:
        pairs = [pair.partition("=") for arguments in self.all("LABEL") for pair in shlex.split(arguments)]
        return {name: value for name, _, value in pairs}


def last_stage(dockerfile: Path) -> Image:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    instructions = [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines) if name]
    stages = [index for index, (name, _) in enumerate(instructions) if name == "FROM"]
    return Image(tuple(instructions[stages[-1] :]))
