"""``python tools/verify_types.py``: how much of the public names pyright finds typed, and which it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ENOUGH = 0.99


def main() -> int:
    """Ask pyright, print what is not typed, and fail under the share that is wanted."""
    # It looks for packages through the first python on the path, and this one has them.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "pyright", "--verifytypes", "holdfast", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    try:
        found = json.loads(done.stdout)["typeCompleteness"]
    except (ValueError, KeyError):
        print(f"pyright said nothing to be read:\n{done.stdout}{done.stderr}", file=sys.stderr)
        return 2
    for symbol in found["symbols"]:
        if symbol["isExported"] and (not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]):
            reasons = [" ".join(each["message"].split()) for each in symbol["diagnostics"]]
            print(f"{symbol['name']}: {'; '.join(reasons) or 'made of names that are not typed'}")
    counts = found["exportedSymbolCounts"]
    share = found["completenessScore"]
    print(f"{share:.2%} of {sum(counts.values())} public names are typed; wanted {ENOUGH:.0%}")
    return int(share < ENOUGH or sum(counts.values()) == 0)


if __name__ == "__main__":
    sys.exit(main())
