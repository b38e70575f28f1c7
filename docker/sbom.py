"""
Print what an image holds, as a CycloneDX document in JSON: `scripts/sbom`.

The packages are those of the lock that the image is built from, by the markers of its Python; the
project and the bundled model join them.  What is in the base image, its own tools tell.
"""

import argparse
import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
MODEL = "service/bundled/alexnet.onnx"


def locked(runtime: str) -> Iterator[Component]:
    """The packages that pip installs into the image of a runtime, from `requirements/*.txt`."""
    lines = (ROOT / "requirements" / f"{runtime}.txt").read_text("utf-8").splitlines()
    for line in lines:
        if line[:1].isalnum():  # the others are comments and hashes
            package = Requirement(line.removesuffix("\\"))
            if package.marker is None or package.marker.evaluate(environment()):
                version = str(package.specifier).removeprefix("==")
                purl = PackageURL("pypi", name=package.name, version=version)
                yield Component(name=package.name, version=version, purl=purl, bom_ref=str(purl))


def environment() -> dict[str, str]:
    """The values of markers in the image: of the Dockerfile's Python, on Linux."""
    base = re.search(r"ARG BASE=python:(\d+\.\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert base, "the Dockerfile's BASE is no image of Python"
    return {
        "python_version": base[1],
        "python_full_version": f"{base[1]}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "platform_system": "Linux",
        "sys_platform": "linux",
    }


def document(runtime: str) -> Bom:
    """The project, what it is made of, and that it depends on all of it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    content = (ROOT / MODEL).read_bytes()
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name="alexnet.onnx",
        version=content[-64:][:12].decode(),  # as the service shows it
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(content).hexdigest())],
    )
    bom = Bom(components=[*locked(runtime), model])
    image = Component(
        type=ComponentType.CONTAINER,
        name=f"{project['name']}:{runtime}",
        version=project["version"],
        description=project["description"],
        licenses=[DisjunctiveLicense(id=project["license"])],
    )
    bom.metadata.component = image
    bom.register_dependency(image, bom.components)
    return bom


def main() -> None:
    """Parse the command line, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runtime", nargs="?", default="cpu", choices=["cpu", "gpu"])
    print(JsonV1Dot6(document(parser.parse_args().runtime)).output_as_string(indent=2))


if __name__ == "__main__":
    main()
