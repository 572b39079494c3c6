"""The commands that README and docs/security.md show for the Hub run against a loopback one, in their order."""

import re
import shlex
from pathlib import Path

from tests.helpers.hub_parts import CAN_COPY


ROOT = Path(__file__).parents[2]
DOCS = ["README.md", "docs/security.md"]
ORG_NAME = "org/llava-1.5-7b-divprune"


def hub_commands(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [
        line for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()
    ]
    words = [shlex.split(line) for line in lines]
    return [word[1:] for word in words if word[0] == "divprune-hf" and word[1] in ("push", "publish", "verify")]


def test_hub_commands_of_the_docs_run_and_what_they_publish_loads(hub, tmp_path, run_isolated):
    folder = tmp_path / "llava-1.5-7b-divprune"
    hub.succeed("convert", "llava-hf/llava-1.5-7b-hf", folder, "--retention-ratio", "0.098")
    commands = [command for name in DOCS for command in hub_commands(name)]
    assert [command[0] for command in commands] == ["publish", "publish", "push", "verify", "verify"]
    for verb, *arguments in commands:
        if verb == "publish" and not CAN_COPY:
            arguments.append("--upload-weights")
        hub.succeed(verb, *(folder if argument == folder.name else argument for argument in arguments))
    repo = hub.store.repos[ORG_NAME]
    assert not repo.private and repo.tags == {"v0.1.0": repo.branches["main"]} and len(repo.log) == 2
    (code,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/security.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    environment = {**hub.environment, "HF_HUB_OFFLINE": "0"}
    assert "transformers_modules.org." in run_isolated(f"{code}\nprint(type(model).__module__)", **environment)


def test_every_file_that_the_security_page_names_exists():
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
