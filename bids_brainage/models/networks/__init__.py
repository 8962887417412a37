"""Networks of the models: architecture and inference, apart from bundles and artefacts."""
