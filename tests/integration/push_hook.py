"""A post-receive hook of a plain git repository that delivers pushes as GitHub does.

Used as `python push_hook.py URL SECRET REPO`, with `before after ref` lines on standard input.
"""

import hashlib
import hmac
import json
import subprocess
import sys
import urllib.request


def git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout


def payload(before: str, after: str, ref: str, repo: str) -> dict[str, object]:
    text, author = git("log", "-1", "--format=%B%x00%an", after).split("\0")
    changed = git("show", "--name-only", "--format=", after).split()
    commit = {
        "id": after, "message": text.strip(), "author": {"name": author.strip()}, "url": "",
        "added": [], "removed": [], "modified": changed,
    }  # fmt: skip
    return {
        "ref": ref, "before": before, "after": after, "deleted": False, "forced": False,
        "repository": {"full_name": repo}, "head_commit": commit, "commits": [commit],
    }  # fmt: skip


def main() -> None:
    url, secret, repo = sys.argv[1:4]
    for line in sys.stdin:
        body = json.dumps(payload(*line.split(), repo)).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            print(f"deploy: {answer.status} {json.load(answer)['ok']}")


if __name__ == "__main__":
    main()
