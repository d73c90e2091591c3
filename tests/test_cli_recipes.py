"""Recipes, results and exported models, as a user sees them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from holdfast.bench import recipes
from holdfast.bench.recipes import schema
from holdfast.bench.records import record
from holdfast.cli import app
from tests.bench.recipes.test_recipes import TINY


def holdfast(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), prog_name="holdfast")


def succeed(*words: str) -> str:
    result = holdfast(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe in a folder of its own, which is also the working folder."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.setattr(schema, "_FOLDER", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_is_listed_and_shown_whole() -> None:
    listed = succeed("recipe", "list")
    for name in recipes.names():
        recipe = recipes.load(name)
        assert name in listed and recipe.title in listed
        shown = succeed("recipe", "show", name)
        assert recipe.source in shown and all(row.label in shown for row in recipe.methods)
        assert all(f"{value:g}" in shown for each in recipe.published for value in each.values.values())


@pytest.mark.parametrize("words", ["recipe list", "recipe show", "recipe run", "results", "export", "evaluate"])
def test_help_ends_with_an_example_that_parses(words: str) -> None:
    shown = " ".join(succeed(*words.split(), "--help").split())
    assert f"Example: holdfast {words}" in shown
    example = shlex.split(shown.partition("Example: ")[2])
    assert holdfast(*example[1:], "--help").exit_code == 0


def test_a_recipe_is_run_into_its_folder_and_gone_on_with(tiny: Path) -> None:
    shown = succeed("recipe", "run", "tiny", "--quick", "--methods", "plain,chosen")
    folder = tiny / "holdfast-results" / "quick" / "tiny" / "one"
    assert "Report: holdfast-results/quick/tiny/one/report.html" in shown and "chosen" in shown
    assert len(record.load_all(folder)) == 3
    page = (folder / "report.html").read_text()
    assert "holdfast recipe run tiny --variant one --methods plain,chosen --quick" in page and "nobody" in page
    succeed("report", str(folder))
    again = (folder / "report.html").read_text()
    mark = "published: 90.00 (nobody; protocol differs: a quick version)"
    assert "◇ 90.00" in again and mark in page and mark in again
    assert holdfast("resume", str(folder)).stderr.count("kept from before") == 4
    other = holdfast("recipe", "run", "tiny", "--quick", "--variant", "two", "--out", str(folder))
    assert other.exit_code == 2 and "differs in variant" in other.stderr


def test_records_without_quick_go_where_results_are_looked_for(tiny: Path) -> None:
    succeed("recipe", "run", "tiny", "--methods", "plain", "--parts", "heads", "--seeds", "2")
    assert holdfast("results", "--check").exit_code == 2
    assert "Page: docs/results.md" in succeed("results")
    page = (tiny / "docs" / "results.md").read_text()
    own = (tiny / "docs" / "results" / "tiny-one.md").read_text()
    assert "(results/tiny-one.md)" in page and "| plain | 2 |" in own and "90.00" in own
    assert "up to date" in succeed("results", "--check")
    succeed("results", "results", "--out", "page.md")
    assert "from the records in `results/`" in (tiny / "page.md").read_text()
    assert "](../results/tiny/one/records" in (tiny / "page" / "tiny-one.md").read_text()
    missing = holdfast("results", "elsewhere")
    assert missing.exit_code == 2 and "there is no folder elsewhere" in missing.stderr
    assert (tiny / "docs" / "results.md").read_text() == page
    (run,) = (tiny / "results" / "tiny" / "one" / "records").glob("heads-plain-seed1.json")
    succeed("export", str(run), "model")
    assert "To the last digit as in its record." in succeed("evaluate", "model", "split-digits")


def test_a_push_without_a_network_says_so_and_keeps_the_folder(tiny: Path) -> None:
    succeed("recipe", "run", "tiny", "--quick", "--methods", "plain", "--parts", "heads")
    run = "holdfast-results/quick/tiny/one/records/heads-plain-seed0.json"
    result = holdfast("export", run, "model", "--push", "someone/model")
    assert result.exit_code == 2
    assert "someone/model was not pushed" in result.stderr and result.stderr.count("\n") <= 2
    assert (tiny / "model" / "model.safetensors").is_file()


def test_a_record_that_was_tampered_with_is_not_exported(tiny: Path) -> None:
    succeed("recipe", "run", "tiny", "--quick", "--methods", "plain", "--parts", "heads")
    path = tiny / "holdfast-results/quick/tiny/one/records/heads-plain-seed0.json"
    found = record.load(path)
    record.save(found.model_copy(update={"matrix": [[0.9, 0.1], [0.9, 0.9]]}), path)
    result = holdfast("export", str(path), "model")
    assert result.exit_code == 2 and "did not give the same accuracies" in result.stderr
    assert not (tiny / "model").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe", "run", "tinny"], "there is no recipe 'tinny'"),
        (["recipe", "run", "tiny", "--variant", "three"], "--variant is 'three', no variant of tiny"),
        (["recipe", "run", "tiny", "--methods", "ewc"], "--methods has 'ewc', no row of tiny"),
        (["recipe", "run", "tiny", "--methods", ","], "expected names with commas"),
        (["export", "nothing.json", "model"], "Cannot read the record nothing.json"),
        (["export", "nothing.json", "model", "--push", "not a name"], "--push is 'not a name'; expected OWNER/NAME"),
        (["evaluate", "nothing", "split-digits"], "nothing holds no exported model"),
    ],
)
def test_what_is_wrong_is_one_sentence(tiny: Path, words: list[str], message: str) -> None:
    result = holdfast(*words)
    assert result.exit_code == 2 and message in result.stderr and not result.stdout
