"""How many words the local transcriber gets wrong: our own sentences, French and English, spoken by the local voices.

Numbers are words, as a transcriber writes what it hears. Each sentence is a file of its own, and all of a language are
one long file: short ones are what a voice conversation sends, long ones what a meeting is.
"""

import asyncio
import re
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import psutil
from numpy.typing import NDArray
from py_nanotts import NanoTTS

from benchmarks.measuring import Row
from config.catalogue import ModelEntry, load_catalogue
from services.audio.transcribers.local import LocalTranscriber
from services.audio.transcribers.transcriber import TranscriptionCall

MODEL = "whisper-base"
DATA_DIR = Path("data")
"""Where the checkout's own weights are: they are fetched the first time."""
RATE = 16_000
PAUSE_S = 0.6
VOICES = {"fr": "fr-FR", "en": "en-US"}
SENTENCES = {
    "fr": (
        "La réunion de mardi matin est reportée à la semaine prochaine.",
        "Le boulanger du quartier ouvre ses portes avant le lever du soleil.",
        "Nous avons pris le train pour rendre visite à ma grand-mère.",
        "Les enfants jouent dans le jardin pendant que le chat dort sur le canapé.",
        "Il faut fermer les fenêtres avant de quitter le bureau.",
        "La bibliothèque municipale prête des livres et des disques à tous les habitants.",
        "Mon frère apprend à jouer du piano depuis trois ans.",
        "Le médecin recommande de marcher une heure chaque jour.",
        "Pouvez-vous m'envoyer le compte rendu avant la fin de la journée ?",
        "La pluie tombe sans arrêt depuis hier soir.",
        "Ce musée expose des tableaux de peintres italiens et espagnols.",
        "Le directeur a présenté le budget de la nouvelle équipe.",
        "Elle a oublié son parapluie dans la salle d'attente.",
        "Nous cherchons un appartement près de la gare, avec deux chambres et un balcon.",
        "Le cuisinier prépare une soupe de légumes pour le dîner.",
        "Les voisins organisent une fête dans la cour ce samedi.",
        "Le conseil a voté la rénovation de la piscine et de l'école.",
        "Je voudrais réserver une table pour quatre personnes ce soir.",
        "Le vent souffle fort sur la côte et les bateaux restent au port.",
        "La température va baisser pendant la nuit dans toute la région.",
        "L'avion a décollé avec une heure de retard à cause du brouillard.",
        "Il raconte toujours les mêmes histoires à la fin du repas.",
        "Cette entreprise fabrique des vélos électriques et des pièces de rechange.",
        "Avant de signer le contrat, lisez attentivement toutes les conditions.",
    ),
    "en": (
        "The meeting on Tuesday morning has been moved to next week.",
        "The baker on our street opens his shop before sunrise.",
        "We took the train to visit my grandmother in the country.",
        "The children are playing in the garden while the cat sleeps on the sofa.",
        "Please close all the windows before you leave the office.",
        "The public library lends books and records to everyone in town.",
        "My brother has been learning to play the piano for three years.",
        "The doctor recommends walking for an hour every day.",
        "Could you send me the report before the end of the day?",
        "It has been raining without a break since last night.",
        "This museum shows paintings by Italian and Spanish artists.",
        "The manager presented the budget of the new team.",
        "She left her umbrella in the waiting room.",
        "We are looking for a flat near the station with two bedrooms and a balcony.",
        "The cook is preparing a vegetable soup for dinner.",
        "The neighbours are giving a party in the courtyard this Saturday.",
        "The council voted to repair the swimming pool and the school.",
        "I would like to book a table for four people this evening.",
        "A strong wind is blowing on the coast and the boats stay in the harbour.",
        "The temperature will fall during the night across the whole region.",
        "The plane took off an hour late because of the fog.",
        "He always tells the same stories at the end of the meal.",
        "This company makes electric bicycles and spare parts.",
        "Before you sign the contract, read all the conditions carefully.",
    ),
}


def measure_word_errors(folder: Path) -> Iterator[Row]:
    """Words to change, add or remove by words said; seconds of work by seconds of sound; memory."""
    folder.mkdir()
    yield from asyncio.run(_measure(folder))


async def _measure(folder: Path) -> list[Row]:
    model = load_catalogue().get(MODEL)
    if model is None:
        raise RuntimeError(f"{MODEL!r} is not in the catalogue")
    transcriber = LocalTranscriber(data_dir=DATA_DIR, timeout_s=300)
    try:
        first = await asyncio.to_thread(_write_mp3, folder / "first.mp3", _speech("Bonjour.", "fr"))
        began_s = time.perf_counter()
        await transcriber.transcribe(TranscriptionCall(model, first, 1.0))
        rows = [Row("first words heard, with the start of the process", time.perf_counter() - began_s, "s")]
        for language in SENTENCES:
            rows += await _of_language(transcriber, model, language, folder)
        held = [child.memory_info().rss for child in psutil.Process().children()]
        rows.append(Row("memory of the process that hears", max(held, default=0) / 1e6, "MB", 700))
        return rows
    finally:
        await transcriber.close()


async def _of_language(transcriber: LocalTranscriber, model: ModelEntry, language: str, folder: Path) -> list[Row]:
    sentences = SENTENCES[language]
    spoken = [await asyncio.to_thread(_speech, sentence, language) for sentence in sentences]
    wrong = said = 0
    for place, (sentence, sound) in enumerate(zip(sentences, spoken, strict=True)):
        path = await asyncio.to_thread(_write_mp3, folder / f"{language}-{place}.mp3", sound)
        heard = await transcriber.transcribe(TranscriptionCall(model, path, len(sound) / RATE, language))
        wrong += word_errors(sentence, heard.text)
        said += len(_words(sentence))
    whole = np.concatenate(spoken)
    path = await asyncio.to_thread(_write_mp3, folder / f"{language}.mp3", whole)
    call = TranscriptionCall(model, path, len(whole) / RATE)
    began_s = time.perf_counter()
    heard = await transcriber.transcribe(call)
    took_s = time.perf_counter() - began_s
    if call.local_work is None or heard.language != language:
        raise RuntimeError(f"{language} was heard as {heard.language}, work {call.local_work}")
    label = f"{len(sentences)} sentences, {language}"
    return [
        Row(f"words wrong in 100: {label}, one by one", 100 * wrong / said, "", 15),
        Row(
            f"words wrong in 100: {label}, in one file",
            100 * word_errors(" ".join(sentences), heard.text) / said,
            "",
            15,
        ),
        Row(f"seconds of work by seconds of sound: {label}", took_s / call.audio_s, ""),
        Row(f"seconds of CPU by seconds of sound: {label}", call.local_work.cpu_s / call.audio_s, ""),
    ]


def word_errors(said: str, heard: str) -> int:
    """The fewest words to change, add or remove (Levenshtein), without regard to case and punctuation."""
    expected, found = _words(said), _words(heard)
    row = list(range(len(found) + 1))
    for line, word in enumerate(expected, 1):
        above, row = row, [line]
        for place, other in enumerate(found, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (word != other)))
    return row[-1]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _speech(sentence: str, language: str) -> NDArray[np.int16]:
    """16 kHz mono, with a pause after it."""
    spoken = np.frombuffer(NanoTTS().speak(sentence, voice=VOICES[language]), np.int16)
    return np.concatenate([spoken, np.zeros(int(PAUSE_S * RATE), np.int16)])


def _write_mp3(path: Path, sound: NDArray[np.int16]) -> Path:
    with av.open(path, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(sound[None, :], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path
