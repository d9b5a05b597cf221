"""JSON lines, speech-resynthesis and TextGrid. Fixtures are written by hand after the sources that each test names."""

import json
import warnings

import numpy as np
import pytest

from textless.errors import ContractWarning, DumpError, TextlessError
from textless.exchange import FORMATS, read_units, write_units
from textless.exchange.formats import find_format
from textless.exchange.textgrid import read_tiers
from textless.types import UnitContract, UnitRow, Units

CONTRACT = UnitContract(encoder="mfcc", sample_rate=16000, frame_rate=50.0, n_units=500)

# facebookresearch/speech-resynthesis, scripts/parse_hubert_codes.py, and save() of scripts/parse_cpc_codes.py.
CODES = (
    "{'audio': '/data/LJ001-0001.wav', 'hubert': '71 71 12', 'duration': 9.655}\n"
    "{'audio': '/data/LJ001-0002.wav', 'hubert': '5', 'duration': 1.89}"
)
# bootphon/unit-hifigan, README.md, data preparation.
HIFIGAN = (
    '{"audio":"audio-1.wav","units":[24,24,173],"speaker":"spkr02"}\n'
    '{"audio":"audio-2.wav","units":[7],"style":"whisper"}\n'
)
# slp-rl/slamkit, example_data/features.jsonl and tokens.jsonl, shortened.
FEATURES = (
    '{"units": [3, 49, 7], "duration": [1, 1, 2], "file_name": "../example_data/audio/audio2.flac"}\n'
    '{"units": [381], "duration": [2], "file_name": "../example_data/audio/audio1.flac"}\n'
)
TOKENS = (
    '{"file_name": "../example_data/audio/audio2.flac", "audio_repr": "<Un3><Un49><Un7>"}\n'
    '{"file_name": "../example_data/audio/audio1.flac", "audio_repr": "<Un381>"}\n'
)
# mxmpl/minimal_hubert, src/minimal_hubert/transcribe.py, before and after it wrote stems.
HUBERT_FILES = '{"file":"1089/134686/1089-134686-0000","units":[71,71,12]}\n'
HUBERT_STEMS = '{"fileid":"1089-134686-0000","units":[71,71,12]}\n'
# bootphon/discophon, docs/guide/evaluate.md.
DISCOPHON = '{"file": "common_voice_1", "units": [71, 71, 12]}\n'
# Dataset.to_json of ryota-komatsu/speech_resynth's rows, src/speechlm/tokenize.py; and with lines=False.
ROWS = '{"id":"1089-134686-0000","units":[71,71,12]}\n{"id":"b","units":[]}\n'
LIST = '[{"id":"1089-134686-0000","units":[71,71,12]},\n {"id":"b","units":[]}]'
# Praat 6.4, "Save as text file", and "Save as short text file".
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0 
xmax = 0.08 
tiers? <exists> 
size = 2 
item []: 
    item [1]:
        class = "TextTier" 
        name = "a ""point"" tier" 
        xmin = 0 
        xmax = 0.08 
        points: size = 1 
        points [1]:
            number = 0.01 
            mark = "17" 
    item [2]:
        class = "IntervalTier" 
        name = "units" 
        xmin = 0 
        xmax = 0.08 
        intervals: size = 3 
        intervals [1]:
            xmin = 0 
            xmax = 0.04 
            text = "71" 
        intervals [2]:
            xmin = 0.04 
            xmax = 0.06 
            text = "12" 
        intervals [3]:
            xmin = 0.06 
            xmax = 0.08 
            text = "" 
"""  # noqa: W291
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
0.08
<exists>
2
"TextTier"
"a ""point"" tier"
0
0.08
1
0.01
"17"
"IntervalTier"
"units"
0
0.08
3
0
0.04
"71"
0.04
0.06
"12"
0.06
0.08
""
"""

FIXTURES = {
    "speech-resynthesis": CODES,
    "unit-hifigan": HIFIGAN,
    "slamkit": FEATURES,
    "slamkit-tokens": TOKENS,
    "minimal-hubert": HUBERT_FILES,
    "discophon": DISCOPHON,
    "huggingface": ROWS,
    "textgrid": LONG,
}


def read(tmp_path, text, **options):
    file = tmp_path / "given"
    file.write_text(text, encoding="utf-8")
    return list(read_units(file, **options))


def quiet(tmp_path, text, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read(tmp_path, text, **options)


def frames(rows):
    return {row.id: row.units.frames().tolist() for row in rows}


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", FIXTURES)
def test_a_file_is_recognised_by_its_content(tmp_path, name):
    file = tmp_path / "given.wrong"
    for start in ("", "\ufeff") if name != "textgrid" else ("",):
        file.write_text(start + FIXTURES[name], encoding="utf-8")
        assert find_format(file).name == name


@pytest.mark.parametrize(
    "text",
    [
        '{"audio_filepath": "a.wav", "duration": 1.5, "text": "units"}',  # NeMo
        '{"id": "a", "path": "units.wav"}',
        '{"id": "a", "recording_id": "a", "start": 0.0, "duration": 3.4, "channel": 0, "text": "\\"units\\": [1]"}',
        '{"audio": "a.wav", "speaker": "x"}',
        '{"file": "a.wav", "split": "train"}',
        "{'audio': 'a.wav', 'duration': 1.5}",
        "[1, 2, 3]",
        "/data\na.wav\t16000\n",
        'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n1\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1\n'
        '1\n0\n1\n"AH0"\n',
        '{"textless": "units", "version": 1, "contract": {}}\n{"id": "a", "units": [1]}',
    ],
)
def test_what_holds_no_units_of_these_formats_is_not_taken_for_one(tmp_path, text):
    (tmp_path / "given").write_text(text)
    found = find_format(tmp_path / "given")
    assert found is None or found.name not in FIXTURES


def test_speech_resynthesis(tmp_path):
    rows = quiet(tmp_path, CODES, frame_rate=50)
    assert frames(rows) == {"LJ001-0001": [71, 71, 12], "LJ001-0002": [5]}
    assert rows[0].source == "/data/LJ001-0001.wav"
    assert rows[0].extra == {"duration": 9.655}
    assert rows[0].units.seconds == 3 / 50


def test_speech_resynthesis_of_other_codes_and_of_expresso(tmp_path):
    """examples/expresso/README.md has spk and style; dataset.py takes cpc_km100, then vqvae256, then hubert."""
    text = (
        "{'audio': 'a/x_1.wav', 'codes': '17 17 296', 'spk': 'speaker_03', 'style': 'style_16'}\n"
        "{'audio': \"it's ~ -- [y](((.wav\", 'hubert': '9', 'cpc_km100': '1 2', 'n': -1.5}\n"
        "{'audio': 'back\\\\slash é.wav', 'vqvae256': '3'}\n"
    )
    rows = quiet(tmp_path, text)
    assert [r.units.units.tolist() for r in rows] == [[17, 17, 296], [1, 2], [3]]
    assert (rows[0].speaker, rows[0].extra) == ("speaker_03", {"style": "style_16"})
    assert rows[1].source == "it's ~ -- [y](((.wav"
    assert rows[1].extra["n"] == -1.5
    assert rows[2].source == "back\\slash é.wav"


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').system('touch evaluated')",
        "{'audio': __import__('os').system('touch evaluated'), 'hubert': '1'}",
        "{'audio': 'a', 'hubert': '1' if open('evaluated', 'w') else '2'}",
        "{'audio': 'a', 'hubert': " + "[" * 100_000 + "}",
        "{'audio': 'a', 'hubert': '1', 'n': " + "-" * 100_000 + "1}",
        "{'audio': 'a', 'hubert': '1', 'n': 1" + "+1j" * 100_000 + "}",
        "{'audio': 'a', 'hubert': '1', 'n': " + "9" * 5000 + "}",
        "{'audio': 'a', 'hubert': '1', 'n': 1e999999}x",
        "{'audio': 'a', 'hubert': '12-45 3'}",
        "{'audio': 'a', 'hubert': '1.5'}",
        "{'audio': 'a', 'hubert': '-1'}",
        "{'audio': 'a', 'hubert': '99999999999999999999'}",
        "{'audio': 'a'}",
        "{'hubert': '1'}",
        "{1: 2}",
        "a.wav",
    ],
)
def test_speech_resynthesis_is_never_evaluated(tmp_path, line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DumpError, match=r"given, line 2: [^\n]{,300}$"):
        read(tmp_path, "{'audio': 'b', 'hubert': '1'}\n" + line, format="speech-resynthesis")
    assert not (tmp_path / "evaluated").exists()


def test_unit_hifigan(tmp_path):
    rows = quiet(tmp_path, HIFIGAN)
    assert frames(rows) == {"audio-1": [24, 24, 173], "audio-2": [7]}
    assert [r.speaker for r in rows] == ["spkr02", None]
    assert [r.extra for r in rows] == [{}, {"style": "whisper"}]


def test_slamkit_features(tmp_path):
    rows = quiet(tmp_path, FEATURES, frame_rate=25, n_units=500)
    assert frames(rows) == {"audio2": [3, 49, 7, 7], "audio1": [381, 381]}
    assert rows[0].source == "../example_data/audio/audio2.flac"
    assert rows[0].units.seconds == 4 / 25


def test_durations_may_be_whole_numbers_with_a_point(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"units": [71, 12], "duration": [3.0, 1.0], "file_name": "a.wav"}\r\n\r\n')
    (row,) = read_units(tmp_path / "x.jsonl")
    assert row.units.durations.tolist() == [3, 1]
    (tmp_path / "x.jsonl").write_text('{"units": [71, 12], "duration": [3.5, 1.0], "file_name": "a.wav"}\n')
    with pytest.raises(DumpError, match=r"line 1: '3\.5' is not a unit"):
        list(read_units(tmp_path / "x.jsonl"))


def test_slamkit_tokens_are_runs_of_unknown_length(tmp_path):
    with pytest.warns(ContractWarning, match=r"taken as runs of unknown length; --frames \(runs=False\)") as said:
        rows = read(tmp_path, TOKENS, frame_rate=25)
    assert len(said) == 1
    assert rows[0].units.units.tolist() == [3, 49, 7]
    assert rows[0].units.contract.frame_rate is None
    assert quiet(tmp_path, TOKENS, frame_rate=25, runs=False)[0].units.seconds == 3 / 25


def test_two_equal_neighbours_are_frames(tmp_path):
    """`dedup: false` of slamkit writes tokens with repetitions."""
    equal = '{"file_name": "a.wav", "audio_repr": "<Un3><Un3>"}\n'
    assert quiet(tmp_path, equal, frame_rate=25, runs=False)[0].units.seconds == 2 / 25
    for text in (equal, HIFIGAN):
        with pytest.raises(DumpError, match=r"line 1: equal units follow each other.*--frames"):
            read(tmp_path, text, runs=True)
    with pytest.raises(DumpError, match=r"line 1: equal units follow each other.*--frames"):
        read(tmp_path, equal)


def test_minimal_hubert(tmp_path):
    for text in (HUBERT_FILES, HUBERT_STEMS):
        assert frames(quiet(tmp_path, text)) == {"1089-134686-0000": [71, 71, 12]}
    assert quiet(tmp_path, HUBERT_FILES)[0].source == "1089/134686/1089-134686-0000"


def test_discophon(tmp_path):
    assert frames(quiet(tmp_path, DISCOPHON)) == {"common_voice_1": [71, 71, 12]}
    assert frames(quiet(tmp_path, DISCOPHON.replace("voice_1", "voice.1"))) == {"common_voice.1": [71, 71, 12]}


def test_rows_of_hugging_face(tmp_path):
    for text in (ROWS, LIST, "\n\n" + ROWS, LIST.replace("{", " {\n "), json.dumps(json.loads(LIST), indent=2)):
        assert frames(quiet(tmp_path, text)) == {"1089-134686-0000": [71, 71, 12], "b": []}
    unclear = '{"id":"a","units":[7,1]}\n{"id":"b","units":[1,2]}\n'
    with pytest.warns(ContractWarning, match=r"taken as frames, one unit each; .*runs=True") as said:
        read(tmp_path, unclear)
    assert len(said) == 1
    rows = quiet(tmp_path, unclear, runs=True, frame_rate=50)
    assert rows[0].units.contract.frame_rate is None
    rows = quiet(tmp_path, '{"id": 7, "units": [1], "durations": [3], "speaker": "s", "text": "so"}')
    assert (rows[0].id, rows[0].units.n_frames, rows[0].speaker, rows[0].extra) == ("7", 3, "s", {"text": "so"})


def test_a_long_list_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("textless.exchange.jsonl.BLOCK", 7)
    units = [{"id": f"r{i}", "units": [i, i, i + 1]} for i in range(50)]
    for text in (json.dumps(units), json.dumps(units, indent=1), "\n".join(map(json.dumps, units))):
        assert frames(quiet(tmp_path, text)) == {u["id"]: u["units"] for u in units}


def test_values_that_only_look_like_the_list(tmp_path):
    """The list is cut out of the line before the rest is parsed."""
    lines = [
        {"file": "units", "units": [1, 2]},
        {"file": '"units": [9]', "units": [1, 2]},
        {"meta": {"units": [9]}, "file": "c", "units": [1, 2]},
        {"units": [1, 2], "meta": {"units": [9]}, "file": "d"},
    ]
    text = (
        "\n".join(map(json.dumps, lines))
        + '\n{"file":"e","units":[9],"units":[1, 2]}\n{"units" : [ 1 , 2 ] ,"file":"f"}'
    )
    rows = quiet(tmp_path, text, format="minimal-hubert")
    assert [r.units.units.tolist() for r in rows] == [[1, 2]] * 6
    assert rows[2].extra == {"meta": {"units": [9]}}


def test_files_of_one_name_in_two_folders_have_two_ids(tmp_path):
    text = '{"audio":"a/001.wav","units":[1]}\n{"audio":"b/001.wav","units":[2]}\n'
    assert frames(quiet(tmp_path, text)) == {"001": [1], "b/001": [2]}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"audio":"a.wav","units":[1]}', "comes a second time"),
        ('{"audio":"c.wav"}', "has no 'units'"),
        ('{"units":[1]}', "has no 'audio'"),
        ('{"audio":7.5,"units":[1]}', "audio must be text"),
        ('{"audio":"c.wav","units":[1,-2]}', "'-2' is not a unit"),
        ('{"audio":"c.wav","units":[1,2.0]}', "'2.0' is not a unit"),
        ('{"audio":"c.wav","units":[1,true]}', "'True' is not a unit"),
        ('{"audio":"c.wav","units":[1,null]}', "'None' is not a unit"),
        ('{"audio":"c.wav","units":[1,NaN]}', "'nan' is not a unit"),
        ('{"audio":"c.wav","units":[1,[2]]}', "group of several codebooks"),
        ('{"audio":"c.wav","units":["12-45","3-4"]}', "'12-45' is a group of several codebooks"),
        ('{"audio":"c.wav","units":{"a":1}}', "is not a list of units"),
        ('{"audio":"c.wav","units":[99999999999999999999]}', "is not a unit"),
        ('{"audio":"c.wav","units":[1,500]}', "500"),
        ('{"audio":"c.wav","units":[1,2', "cannot be read"),
        ('{"audio":"c.wav","units":[1 2]}', "cannot be read"),
        ('{"audio":"c.wav","units":[1,]}', "cannot be read"),
        ('{"audio":"c.wav","units":[1]} {}', "cannot be read"),
        ('["a"]', "not an object with units"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_errors_name_file_and_line(tmp_path, line, error):
    with pytest.raises(DumpError, match=rf"given, line 2: [^\n]*{error}"):
        read(tmp_path, '{"audio":"a.wav","units":[1]}\n' + line, format="unit-hifigan", n_units=500)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("text", "error"),
    [
        (FEATURES.replace("[1, 1, 2]", "[1, 1]"), "line 1: 3 units but 2 durations"),
        (FEATURES.replace("[2]", "[0]"), "line 2: durations must be at least 1"),
        (FEATURES.replace("[2]", "[-2]"), "line 2: '-2' is not a unit"),
        (TOKENS.replace("<Un381>", "<Un381>hello<Un2>"), "line 2: .*other tokens"),
        (TOKENS.replace("<Un381>", "<Un-1>"), "line 2: .*other tokens"),
        (TOKENS.replace("<Un381>", "<Un>"), "line 2: .*other tokens"),
        (TOKENS.replace("<Un381>", "<Un3><Un><Un5>"), "line 2: .*other tokens"),
        (TOKENS.replace("<Un381>", "<Un3 4>"), "line 2: .*other tokens"),
        (TOKENS.replace("<Un381>", "<Un3"), "line 2: .*other tokens"),
    ],
)
def test_damaged_files_of_slamkit(tmp_path, text, error):
    with pytest.raises(DumpError, match=error):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (LIST[:-1], "line 2: the list has no end"),
        (LIST.replace("},", "}"), "line 1: ',' is missing"),
        (LIST + "]", "something follows the list"),
        (LIST[:30], "line 1: cannot be read"),
        ("[1]", "not an object"),
        ("[", "line 1"),
    ],
)
def test_damaged_lists(tmp_path, text, error):
    with pytest.raises(DumpError, match=error):
        read(tmp_path, text, format="huggingface")


# ------------------------------------------------------------------------------------------------------------ textgrid


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
def test_textgrid(tmp_path, text, encoding):
    file = tmp_path / "a.b.TextGrid"
    data = ("\ufeff" + text).encode("utf-16-be") if encoding == "utf-16-be-bom" else text.encode(encoding)
    file.write_bytes(data)
    (row,) = read_units(file, frame_rate=50)
    assert (row.id, row.units.units.tolist(), row.units.durations.tolist()) == ("a.b", [71, 12], [2, 1])
    assert [(t.name, [label for *_, label in t.intervals]) for t in read_tiers(file)] == [("units", ["71", "12", ""])]


def test_a_textgrid_needs_a_frame_rate_that_fits(tmp_path):
    with pytest.raises(DumpError, match=r"frame_rate \(--frame-rate\)"):
        read(tmp_path, LONG)
    assert quiet(tmp_path, LONG, frame_rate=100)[0].units.durations.tolist() == [4, 2]
    with pytest.raises(DumpError, match=r"boundary at 0.06 s is not on a frame at 25 frames"):
        read(tmp_path, LONG, frame_rate=25)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"71"', '""', "at 0 s holds '', not one unit"),
        ('"71"', '"71 12"', "holds '71 12', not one unit"),
        ('"71"', '"71-12"', "group of several codebooks"),
        ('"71"', '"AH"', "'AH' is not a unit"),
        ('"12"', '"500"', "500"),
        ("xmin = 0.04", "xmin = 0.02", "do not follow each other"),
        ("size = 3", "size = 4", "a time is missing"),
        ("size = 3", "size = 999999999999", "is no number of things"),
        ('"units"', '"phones"', "has no interval tier 'units'"),
        ('"IntervalTier"', '"Other"', "'Other' is no kind of tier"),
        ("ooTextFile", "ooBinaryFile", "it holds something else"),
        ("xmax = 0.04 \n            text", 'xmax = "x" \n            text', "a time is missing"),
        ("xmax = 0.06", "xmax = 1e300", "a time is no time"),
    ],
)
def test_damaged_textgrids(tmp_path, old, new, error):
    assert old in LONG
    with pytest.raises(DumpError, match=rf"given(, line \d+)?: [^\n]*({error})"):
        read(tmp_path, LONG.replace(old, new), format="textgrid", frame_rate=50, n_units=500)


def test_a_textgrid_is_as_praat_writes_it(tmp_path):
    """Praat's own bytes, from parselmouth."""
    parselmouth = pytest.importorskip("parselmouth")
    units = Units(np.array([71, 12, 71]), np.array([7, 1, 3]), CONTRACT.with_(frame_rate=43.06640625))
    write_units(tmp_path / "a.TextGrid", [UnitRow("a", units)])
    grid = parselmouth.read(str(tmp_path / "a.TextGrid"))
    grid.save_as_text_file(str(tmp_path / "long.TextGrid"))
    assert (tmp_path / "a.TextGrid").read_bytes() == (tmp_path / "long.TextGrid").read_bytes()
    grid.save_as_short_text_file(str(tmp_path / "short.TextGrid"))
    (tmp_path / "short.TextGrid.contract.json").write_bytes((tmp_path / "a.TextGrid.contract.json").read_bytes())
    (row,) = read_units(tmp_path / "short.TextGrid")
    assert row.units == units


def test_a_folder_of_textgrids(tmp_path):
    rows = [UnitRow(name, Units.of([1, 1, 2], CONTRACT)) for name in ("a", "s/b.c")]
    write_units(tmp_path / "grids", rows, "textgrid")
    assert sorted(p.name for p in (tmp_path / "grids").iterdir()) == ["a.TextGrid", "contract.json", "s"]
    assert find_format(tmp_path / "grids").name == "textgrid"
    back = list(read_units(tmp_path / "grids"))
    assert frames(back) == frames(rows)
    assert {r.units.contract for r in back} == {CONTRACT}


@pytest.mark.parametrize("name", ["..", "a/../../b", "/a", ".hidden", "a//b"])
def test_an_id_leads_nowhere_else(tmp_path, name):
    with pytest.raises(DumpError, match="cannot be the name of a file"):
        write_units(
            tmp_path / "grids",
            [UnitRow("a", Units.of([1], CONTRACT)), UnitRow(name, Units.of([1], CONTRACT))],
            "textgrid",
        )
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- writing


def written(tmp_path, rows, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(tmp_path / "written", rows, name)
    return (tmp_path / "written").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("speech-resynthesis", CODES),
        ("unit-hifigan", HIFIGAN),
        ("slamkit", FEATURES),
        ("slamkit-tokens", TOKENS),
        ("minimal-hubert", HUBERT_STEMS),
        ("discophon", DISCOPHON.replace(": ", ":").replace(", ", ",")),
        ("huggingface", ROWS),
    ],
)
def test_what_was_read_is_written_byte_for_byte(tmp_path, name, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = read(tmp_path, text, contract=CONTRACT)
    assert written(tmp_path, rows, name) == text


def test_rows_that_are_parts_of_a_file_are_called_by_their_ids(tmp_path):
    rows = [UnitRow(f"a-{i}", Units.of([1], CONTRACT), source="a.flac", offset=i) for i in range(2)]
    with pytest.warns(ContractWarning, match="cannot hold offset and samples"):
        write_units(tmp_path / "u", rows, "unit-hifigan")
    assert [json.loads(line)["audio"] for line in (tmp_path / "u").open()] == ["a-0.flac", "a-1.flac"]


def test_what_a_format_loses_is_said_once(tmp_path):
    row = UnitRow("a", Units.of([1], CONTRACT), speaker="s", source="a.wav", extra={"style": "happy"})
    with pytest.warns(ContractWarning, match=r"discophon cannot hold extra columns, source, speaker") as said:
        write_units(tmp_path / "d", [row, UnitRow("b", row.units, speaker="t")], "discophon")
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_units(tmp_path / "u", [row], "unit-hifigan")


@pytest.mark.parametrize("name", [n for n in FIXTURES if n != "textgrid"])
def test_two_rows_of_one_name_are_refused_and_nothing_is_left(tmp_path, name):
    rows = [UnitRow("a", Units.of([1], CONTRACT))] * 2
    with pytest.raises(DumpError, match="two rows would be called"):
        write_units(tmp_path / "w", rows, name)
    assert list(tmp_path.iterdir()) == []


def ragged(seed, n=40, least=0):
    """Rows of 0 to 300 units, some in runs; ids, speakers and paths with odd characters."""
    rng = np.random.default_rng(seed)
    names = ["it's", 'say "so"', "tab\there", "naïve", "日本", "b\\s", "a,b", "{x}", "[1]", "<Un3>", "units", "a b"]
    rows = []
    for i in range(n):
        values = rng.integers(0, 500, rng.integers(least, 300)).repeat(rng.integers(1, 4))
        units = Units.from_frames(values, CONTRACT) if i % 2 else Units(values, None, CONTRACT)
        name = names[i] if i < len(names) else f"r{i}"
        speaker = None if i % 3 else names[i % len(names)]
        source = f"/data/{i}/{name}.flac" if i % 5 else ""
        rows.append(UnitRow(name, units, speaker=speaker, source=source))
    return rows


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [n for n in FIXTURES if n != "slamkit-tokens"])
def test_frames_survive_the_round_trip(tmp_path, name, seed):
    rows = [r for r in ragged(seed, least=name == "speech-resynthesis") if name != "textgrid" or "\\" not in r.id]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(tmp_path / "w", rows, name)
        back = list(read_units(tmp_path / "w"))
    assert find_format(tmp_path / "w").name == name
    assert frames(back) == frames(rows)
    assert all(r.units.contract == CONTRACT for r in back)
    if name in ("unit-hifigan", "speech-resynthesis"):
        assert [r.speaker for r in back] == [r.speaker for r in rows]
    if name in ("unit-hifigan", "speech-resynthesis", "slamkit"):
        assert [r.source for r in back] == [r.source or f"{r.id}.wav" for r in rows]


def test_tokens_keep_the_runs(tmp_path):
    rows = ragged(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_units(tmp_path / "w", rows, "slamkit-tokens")
        back = list(read_units(tmp_path / "w"))
    assert [r.units.units.tolist() for r in back] == [r.units.deduplicated().units.tolist() for r in rows]
    assert {r.units.contract.frame_rate for r in back} == {None}


# ------------------------------------------------------------------------------------------------------------- mutants


def mutate_and_read(tmp_path, name, tries):
    rng = np.random.default_rng(len(name))
    alphabet = np.frombuffer(b"0123456789\"'[]{},:.-+<>eE \n\\\x00\xff\xc3\xa9unuis/_", np.uint8)
    original = np.frombuffer(FIXTURES[name].encode(), np.uint8)
    outcomes = {"read": 0, "refused": 0}
    file = tmp_path / "mutant"
    for _ in range(tries):
        data = original.copy()
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(data)))
            piece = rng.choice(alphabet, rng.integers(0, 3))
            data = np.concatenate([data[:at], piece, data[at + int(rng.integers(0, 3)) :]])
        file.write_bytes(data[: rng.integers(1, len(data) + 1)].tobytes() if rng.random() < 0.1 else data.tobytes())
        try:
            find_format(file)
            list(read_units(file, name, frame_rate=50))
            outcomes["read"] += 1
        except TextlessError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > tries // 50, outcomes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIXTURES)
def test_mutated_files_give_our_errors_only(tmp_path, name):
    mutate_and_read(tmp_path, name, 300)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FIXTURES)
def test_many_mutated_files_give_our_errors_only(tmp_path, name):
    mutate_and_read(tmp_path, name, 10_000)


def test_every_format_is_tested():
    from test_exchange_text import LINE_FORMATS

    assert {*FIXTURES, *LINE_FORMATS, "dump", "jsonl"} == FORMATS.keys()
