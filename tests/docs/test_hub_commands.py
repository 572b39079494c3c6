"""The commands for the Hub that the docs and README show run against a loopback one, in their order."""

from tests.helpers.doc_blocks import HUB_COMMANDS, PAGES, ROOT, blocks_of
from tests.helpers.hub_parts import CAN_COPY


PUBLISHING = ROOT / "docs" / "publishing.md"
ORG_NAME = "org/llava-1.5-7b-divprune"


def hub_commands(page):
    commands = [
        words[1:] for block in blocks_of(page, "console") for words in block.commands if words[0] == "divprune-hf"
    ]
    return [words for words in commands if words[0] in HUB_COMMANDS]


def test_hub_commands_of_the_docs_run_and_what_they_publish_loads(hub, tmp_path, run_isolated):
    folder = tmp_path / "llava-1.5-7b-divprune"
    hub.succeed("convert", "llava-hf/llava-1.5-7b-hf", folder, "--retention-ratio", "0.098")
    first = hub_commands(PUBLISHING)
    assert [command[0] for command in first] == ["publish", "publish", "push", "verify"]
    others = [command for page in (ROOT / "README.md", *PAGES) for command in hub_commands(page)]
    commands = [*first, *(command for command in others if command not in first)]
    for verb, *arguments in commands:
        if verb == "publish" and not CAN_COPY:
            arguments.append("--upload-weights")
        hub.succeed(verb, *(folder if argument == folder.name else argument for argument in arguments))
    repo = hub.store.repos[ORG_NAME]
    assert not repo.private and repo.tags == {"v0.1.0": repo.branches["main"]} and len(repo.log) == 2
    (code,) = (block.text for block in blocks_of(ROOT / "docs" / "security.md", "python"))
    environment = {**hub.environment, "HF_HUB_OFFLINE": "0"}
    assert "transformers_modules.org." in run_isolated(f"{code}\nprint(type(model).__module__)", **environment)
