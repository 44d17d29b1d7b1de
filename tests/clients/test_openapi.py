"""The OpenAPI document is valid, also for PyPI openapi-spec-validator, and agrees with a server without keys."""
import unittest

from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from harness import get_json
from openapi_runs import APP_SECRET, FLAGS, PUSHER, WEBSOCKETS, OpenApiCase


def media_of(document, part):
    """Each media type in a part of the document with its schema and examples."""
    if isinstance(part, dict):
        if "schema" in part and ("example" in part or "examples" in part):
            examples = [part["example"]] if "example" in part else [one["value"] for one in part["examples"].values()]
            yield part["schema"], examples
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from media_of(document, inner)


class OpenApi(OpenApiCase):
    def test_the_document_is_valid_and_so_are_its_examples(self):
        document = get_json(f"{self.server(*FLAGS).http}/openapi.json")
        self.assertEqual([str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()], [])
        examples = list(media_of(document, document["paths"])) + list(media_of(document, document["components"]))
        self.assertGreater(len(examples), 50)
        for schema, values in examples:
            validator = Draft202012Validator({**schema, "components": document["components"]})
            for value in values:
                self.assertEqual([error.message for error in validator.iter_errors(value)], [], value)

    def test_a_server_without_keys(self):
        server = self.server(*FLAGS, "--dev-login")
        options = ["--exclude-tag", WEBSOCKETS, "--exclude-tag", PUSHER]
        self.assertGreater(self.run_schemathesis(server, "none", *options), 400)
        self.assert_alive(server)

    def test_websockets_refuse_what_is_no_handshake(self):
        server = self.server(*FLAGS, "--pusher-app", f"1:app-key:{APP_SECRET}")
        options = ["--include-tag", WEBSOCKETS, "--exclude-checks", "positive_data_acceptance,negative_data_rejection"]
        self.assertGreater(self.run_schemathesis(server, "none", *options), 20)
        self.assert_alive(server)


if __name__ == "__main__":
    unittest.main()
