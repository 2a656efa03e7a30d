"""Tables of sentences for `distmeta adapt`, sentences for a learner, and vocabularies of checkpoints."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import distmeta

from .conftest import Places
from .test_importers import _lines, _objects, _parquet
from .values import as_json, changed, changed_bytes, scalars, texts

SUPPORT = b"text,label\nrenew the book,loan\nkeep the atlas,loan\nbook a room,room\na quiet room,room\n"
QUERY = b"text\nkeep it\na room\n"
_contents = {"csv": _lines(","), "tsv": _lines("\t"), "jsonl": _objects, "parquet": _parquet()}


@given(
    suffix=st.sampled_from(list(_contents)),
    role=st.sampled_from(["support", "query"]),
    data=st.data(),
    extra=st.sampled_from(
        [[], [], ["--json"], ["--out", "o.csv"], ["--text-column", "label"], ["--label-column", "a"]]
    ),
)
def test_tables_to_label(
    places: Places, sentences: Path, suffix: str, role: str, data: st.DataObject, extra: list[str]
) -> None:
    content = data.draw(_contents[suffix])
    if suffix != "parquet" and data.draw(st.integers(0, 3)) == 0:
        content = data.draw(changed_bytes(content))
    with places() as place:
        shutil.copytree(sentences, place.work / "runs")
        files = {"support": place.work / "support.csv", "query": place.work / "query.csv"}
        files["support"].write_bytes(SUPPORT)
        files["query"].write_bytes(QUERY)
        files[role] = place.work / f"drawn.{suffix}"
        files[role].write_bytes(content)
        named = [part for name, path in files.items() for part in (f"--{name}", path.name)]
        outcome = place.run("adapt", "runs/questions", *named, *extra)
        if outcome.code == 0 and extra == ["--json"]:
            found = json.loads(outcome.stdout)
            assert all(row["label"] in found["classes"] for row in found["predictions"])


_sentences = st.one_of(st.lists(st.one_of(texts, st.sampled_from(["a room", "keep it"])), max_size=4), scalars)


@given(support=_sentences, queries=_sentences)
def test_sentences_of_a_learner(places: Places, sentences: Path, support: object, queries: object) -> None:
    learner = distmeta.load(str(sentences / "questions"))
    labels = list(range(len(support))) if isinstance(support, list) else [0]
    with places() as place:
        adapted = place.call("adapt", lambda: learner.adapt(support, labels))
        if adapted.value is not None:
            found = place.call("confidences", lambda: adapted.value.confidences(queries))
            if found.value is not None:
                assert abs(found.value.sum(1) - 1).max() < 1e-9


@given(data=st.data(), vouched=st.booleans())
def test_vocabularies_of_damaged_checkpoints(
    places: Places, sentences: Path, data: st.DataObject, vouched: bool
) -> None:
    with places() as place:
        shutil.copytree(sentences, place.work / "runs")
        folder = max((place.work / "runs" / "questions").glob("step-*"))
        words = folder / "words.json"
        if data.draw(st.booleans()):
            words.write_bytes(data.draw(changed_bytes(words.read_bytes())))
        else:
            words.write_bytes(as_json(data.draw(changed(json.loads(words.read_text())))))
        if vouched:
            state = json.loads((folder / "state.json").read_text())
            state["sha256"]["words.json"] = hashlib.sha256(words.read_bytes()).hexdigest()
            (folder / "state.json").write_text(json.dumps(state))
        (place.work / "support.csv").write_bytes(SUPPORT)
        (place.work / "query.csv").write_bytes(QUERY)
        place.run("adapt", "runs/questions", "--support", "support.csv", "--query", "query.csv", "--json")
