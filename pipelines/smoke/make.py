"""Make the speech of smoke.yaml and its words again: espeak-ng (Debian's package) in four voices, about a minute and a
half, as Ogg Opus at 16 kHz.

python pipelines/smoke/make.py
"""

import subprocess
from pathlib import Path

import soundfile
import soxr

HERE = Path(__file__).parent
VOICES = {"amy": ("en-us+f2", 150), "ben": ("en-us+m3", 160), "cat": ("en-gb+f4", 145), "dan": ("en-gb+m7", 155)}
SENTENCES = [
    "The kettle sings before the water boils.",
    "Nobody had told the gardener about the second gate.",
    "A small boat crossed the harbour in the morning fog.",
    "She counted seven stones and put them back again.",
    "We could hear the train long before we saw the light.",
    "Put the blue box under the table and close the door.",
    "Every winter the river takes a little of the road.",
    "They spoke of bread, of weather, and of going home.",
]


def main() -> None:
    rows, words = [], []
    for n, sentence in enumerate(SENTENCES):
        for k, (speaker, (voice, rate)) in enumerate(VOICES.items()):
            if (n + k) % 4 == 3:  # not every voice says everything
                continue
            wav = HERE / "raw.wav"
            subprocess.run(["espeak-ng", "-v", voice, "-s", str(rate), "-w", wav, sentence], check=True)
            waveform, sample_rate = soundfile.read(wav)
            wav.unlink()
            name = f"{speaker}-{n}"
            soundfile.write(
                HERE / f"{name}.opus", soxr.resample(waveform, sample_rate, 16000), 16000, format="OGG", subtype="OPUS"
            )
            rows.append(f"{name}\t{name}.opus\t{speaker}\t{'dev' if n == len(SENTENCES) - 1 else 'train'}\n")
            words.append(f"{name}\t{sentence.lower().replace('.', '').replace(',', '')}\n")
    (HERE / "words.tsv").write_text("".join(words))
    (HERE / "speech.tsv").write_text("id\tpath\tspeaker\tsplit\n" + "".join(rows))


if __name__ == "__main__":
    main()
