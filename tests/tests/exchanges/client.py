"""Exchanges by Python's clients: client.py http|urllib|requests BASE; a line of JSON for each list."""

import http.client
import json
import socket
import sys
import time
import urllib.error
import urllib.request

HOW, BASE = sys.argv[1:3]
HOST = BASE.split("//")[1]
IDEMPOTENT = ("GET", "PUT", "DELETE")
PATIENCE = 20


def now():
    return int(time.time() * 1000)


def pattern(name, length):
    unit = (name + ".").encode()
    return (unit * (length // len(unit) + 1))[:length]


def pieces(one):
    body = pattern(one["id"], one["length"])
    step = max(1, -(-len(body) // 5))
    for at in range(0, len(body), step):
        if one["slow"]:
            time.sleep(0.01)
        yield body[at : at + step]


def body_of(one):
    if one["framing"] == "none":
        return None
    return pieces(one) if one["framing"] == "chunked" else pattern(one["id"], one["length"])


def blank(outcome):
    attempt = {"status": None, "mark": None, "body": "none", "length": 0, "made": False}
    outcome["attempts"].append(attempt)
    return attempt


def head(attempt, status, mark):
    attempt.update(status=status, mark=mark, body="cut")


def take(attempt, one, body):
    made = body == pattern(one["id"], len(body))
    attempt.update(body="whole", length=len(body), made=made)


class ByHttp:
    """http.client on one connection; what ended while idle is tried again, as programs do."""

    connection = None

    def perform(self, one, outcome):
        while True:
            attempt, reused = blank(outcome), self.connection is not None
            if not reused:
                self.connection = http.client.HTTPConnection(HOST, timeout=PATIENCE)
            try:
                headers = {"x-exchange": one["id"]}
                chunked = one["framing"] == "chunked"
                if chunked:
                    headers["Transfer-Encoding"] = "chunked"
                self.connection.request(
                    one["method"], "/x/e", body_of(one), headers, encode_chunked=chunked
                )
                answer = self.connection.getresponse()
                head(attempt, answer.status, answer.headers.get("x-exchange"))
                take(attempt, one, answer.read())
                return
            except (http.client.HTTPException, OSError) as error:
                self.connection.close()
                self.connection = None
                ended = isinstance(error, (http.client.RemoteDisconnected, ConnectionError))
                unseen = attempt["status"] is None
                if not (reused and ended and unseen and one["method"] in IDEMPOTENT):
                    raise


class ByUrllib:
    """urllib: a connection for each."""

    def perform(self, one, outcome):
        attempt = blank(outcome)
        headers = {"x-exchange": one["id"], "Content-Type": "text/plain"}
        request = urllib.request.Request(
            BASE + "/x/e", body_of(one), headers, method=one["method"]
        )
        try:
            answer = urllib.request.urlopen(request, timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            answer = error
        head(attempt, answer.status, answer.headers.get("x-exchange"))
        body = answer.read()
        take(attempt, one, body)


class ByRequests:
    """requests with urllib3's own repetitions of what may be repeated."""

    def __init__(self):
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        self.session = requests.Session()
        retries = Retry(
            total=2,
            backoff_factor=0.05,
            status_forcelist=[502, 503, 504],
            allowed_methods=IDEMPOTENT,
            raise_on_status=False,
            respect_retry_after_header=False,
        )
        self.session.mount("http://", HTTPAdapter(max_retries=retries))

    def perform(self, one, outcome):
        attempt = blank(outcome)
        headers = {"x-exchange": one["id"]}
        try:
            answer = self.session.request(
                one["method"], BASE + "/x/e", data=body_of(one), headers=headers,
                timeout=PATIENCE, stream=True,
            )
        except OSError:
            outcome["untold"] = 2 if one["method"] in IDEMPOTENT else 0
            raise
        head(attempt, answer.status_code, answer.headers.get("x-exchange"))
        for earlier in answer.raw.retries.history if answer.raw.retries else ():
            attempt_before = blank(outcome)
            attempt_before.update(status=earlier.status, mark="?" if earlier.status else None)
        outcome["attempts"].reverse()
        body = answer.content
        # This version tells nobody that a body is shorter than its length; the caller has to look.
        if len(body) >= int(answer.headers.get("content-length", 0)):
            take(attempt, one, body)


client = {"http": ByHttp, "urllib": ByUrllib, "requests": ByRequests}[HOW]()
for line in sys.stdin:
    outcomes = []
    for one in json.loads(line):
        outcome = {"id": one["id"], "began": now(), "attempts": [], "untold": 0}
        outcome.update(gave_up=False, error="")
        try:
            client.perform(one, outcome)
        except (http.client.HTTPException, OSError) as error:
            late = isinstance(error, (TimeoutError, socket.timeout))
            outcome.update(gave_up=late or "timed out" in str(error), error=repr(error))
        outcome["ended"] = now()
        outcomes.append(outcome)
        if outcome["attempts"][-1]["mark"] is None:
            time.sleep(0.02)
    print(json.dumps(outcomes), flush=True)
