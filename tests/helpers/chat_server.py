"""A chat server that answers by rule, and a task to ask it."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import subprocess
import threading

from PIL import Image

from harness.engine.log import EngineFacts
from harness.engine.server import Engine
from harness.engine.session import Session
from harness.engine.settings import EngineSettings
from harness.workloads import Context, Measurement, Workload

TASK = """\
task: {name}
custom_dataset: !function data.load
test_split: test
output_type: generate_until
doc_to_image: !function data.images
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 8}}
filter_list:
  - name: strip
    filter: [{{function: remove_whitespace}}, {{function: take_first}}]
metric_list: [{{metric: exact_match}}]
"""


DATA = """\
import datasets
from PIL import Image
DOCS = {docs!r}
def load(**_):
    return {{"test": datasets.Dataset.from_list(DOCS)}}
def images(doc):
    return [Image.new("RGB", tuple(doc["size"]), c) for c in doc["colours"]]
"""


def doc(name: str, colours=("red",), question="Which colour?", answer="red", size=(64, 64)):
    return {"id": name, "question": question, "answer": answer, "colours": list(colours), "size": list(size)}


class Server:
    """An OpenAI-style server; `reply(colour of the picture, body)` gives (text, finish_reason), a status, or its JSON."""

    def __init__(self, reply):
        self.bodies, outer = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                said = reply(colour_of(body["messages"][-1]["content"]), body)
                self.send_response(said if isinstance(said, int) else 200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                if isinstance(said, tuple):
                    said = {
                        "choices": [{"index": 0, "message": {"content": said[0]}, "finish_reason": said[1]}],
                        "usage": {"prompt_tokens": 40, "completion_tokens": 2},
                    }
                if isinstance(said, dict):
                    self.wfile.write(json.dumps(said).encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def engine_of(server: Server, folder, model: str = "m") -> Engine:
    facts = EngineFacts(vllm="0", arguments=[], start_s=0)
    return Engine(server.url, model, facts, Running(), folder / "log", folder, EngineSettings())


def colour_of(content) -> str | None:
    """The colour of the first picture of a message, if it has one."""
    urls = [part["image_url"]["url"] for part in content if isinstance(part, dict) and part["type"] == "image_url"]
    if not urls:
        return None
    picture = Image.open(io.BytesIO(base64.b64decode(urls[0].partition(",")[2]))).convert("RGB")
    return {(255, 0, 0): "red", (0, 0, 255): "blue"}.get(picture.getpixel((0, 0)))


class Running:
    def poll(self):
        return None

    def wait(self, timeout):
        raise subprocess.TimeoutExpired("engine", timeout)


def measured(kind: Workload, engine: Engine, spec, point, session: Session | None = None, **more) -> Measurement:
    """One Cell of a workload, measured against `engine` in a session of its own or in the one that is given."""
    with contextlib.nullcontext(session) if session else Session() as session:
        return kind.measure(Context(engine, session, spec, point, lambda *_: None, **more))
