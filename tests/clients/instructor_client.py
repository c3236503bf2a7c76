"""Instructor against a running server: a pydantic model by JSON schema and by a tool call.

API_KEY=… python tests/clients/instructor_client.py http://127.0.0.1:8000 smollm2-135m-instruct
"""

import os
import sys

import instructor
import openai
from pydantic import BaseModel, Field


class Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=120)


def main() -> None:
    """Run all checks."""
    url, model = sys.argv[1:]
    for mode in (instructor.Mode.JSON_SCHEMA, instructor.Mode.TOOLS):
        raw = openai.OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("API_KEY", "any"), max_retries=0)
        client = instructor.from_openai(raw, mode=mode)
        person = client.chat.completions.create(
            model=model,
            response_model=Person,
            messages=[{"role": "user", "content": "John is 25 years old."}],
            max_tokens=120,
            max_retries=0,
            **({"parallel_tool_calls": False} if mode is instructor.Mode.TOOLS else {}),
        )
        assert isinstance(person, Person), person
        print(f"ok {mode.name}")


if __name__ == "__main__":
    main()
