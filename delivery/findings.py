"""checkov over the templates, as .checkov.yaml says, and a failure where checkov itself would look away.

It passes a template that it cannot parse or find, and leaves out what the default parameters' conditions leave out.
"""

# ruff: noqa: T201, S603 - it prints, and runs what is installed beside it

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEMPLATES = ("template.yaml", "delivery/github-role.yaml")

KINDS = ("passed", "failed", "skipped")

CONDITION = re.compile(r"^    Condition: .*$", re.MULTILINE)
"""A resource's. The line stays, for the numbers of those after it."""


def main(templates: list[str]) -> int:
    """Check the templates, say what was found, and return the exit status."""
    results = checked(templates)
    for each in results["failed_checks"]:
        place = f"{each['file_path'].lstrip('/')}:{each['file_line_range'][0]}"
        print(f"{place}: {each['resource'].rpartition('.')[2]}: {each['check_id']}: {each['check_name']}")
    seen = {each["file_path"].lstrip("/") for kind in ("passed", "failed") for each in results[f"{kind}_checks"]}
    unseen = sorted({*templates} - seen)
    for template in unseen:
        print(f"{template}: checkov could not read it, or found nothing to check in it")
    print(", ".join(f"{len(results[f'{kind}_checks'])} {kind}" for kind in KINDS))
    return 1 if results["failed_checks"] or unseen else 0


def checked(templates: list[str]) -> dict[str, Any]:
    """What checkov found, of every resource under no condition."""
    checkov = Path(sys.executable).with_name("checkov")
    config = Path(".checkov.yaml").resolve()
    with tempfile.TemporaryDirectory() as folder:
        for template in templates:
            copy = Path(folder, template)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(CONDITION.sub("    #", Path(template).read_text("utf-8")), "utf-8")
        files = [argument for template in templates for argument in ("--file", template)]
        command = [str(checkov), "--config-file", str(config), "--output", "json", *files]
        # Its exit status is of what was found, which is looked at here. A crash leaves no JSON.
        report = json.loads(subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=False).stdout)
    return {f"{kind}_checks": report.get("results", {}).get(f"{kind}_checks", []) for kind in KINDS}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(TEMPLATES)))
