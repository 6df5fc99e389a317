"""What agents say themselves, in the language they are spoken to: French, English, and five neighbours."""

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage

DEFAULT_LANGUAGE = "fr"
UNKNOWN = {
    "fr": "Je ne sais pas : les documents du projet ne contiennent pas la réponse à cette question.",
    "en": "I don't know: the project's documents do not hold the answer to this question.",
    "de": "Das weiß ich nicht: Die Dokumente des Projekts enthalten die Antwort auf diese Frage nicht.",
    "es": "No lo sé: los documentos del proyecto no contienen la respuesta a esta pregunta.",
    "it": "Non lo so: i documenti del progetto non contengono la risposta a questa domanda.",
    "nl": "Dat weet ik niet: de documenten van het project bevatten het antwoord op deze vraag niet.",
    "pt": "Não sei: os documentos do projeto não contêm a resposta a esta pergunta.",
}
FAILED_STEP = {
    "fr": "Étape non aboutie",
    "en": "A step that failed",
    "de": "Nicht gelungener Schritt",
    "es": "Paso fallido",
    "it": "Passo non riuscito",
    "nl": "Mislukte stap",
    "pt": "Etapa sem sucesso",
}


async def language_of(text: str) -> str:
    """The language of a text, among those above. The first call loads a model, in a thread."""
    return await asyncio.to_thread(_classify, text)


def last_question(messages: Sequence[BaseMessage]) -> str:
    """The text of the user's last message."""
    asked = [message for message in messages if isinstance(message, HumanMessage)]
    return str(asked[-1].text) if asked else ""


def question_in_context(messages: Sequence[BaseMessage]) -> str:
    """What to search for: the last question, with the one before it, which a short one leans on."""
    asked = [str(message.text) for message in messages if isinstance(message, HumanMessage)]
    return "\n".join(asked[-2:])


def _classify(text: str) -> str:
    language, _ = _classifier().classify(text)
    return language if language in UNKNOWN else DEFAULT_LANGUAGE


@lru_cache(maxsize=1)
def _classifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    # One of our own: the module's is shared with whoever else narrows its languages.
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(UNKNOWN))
    return identifier
