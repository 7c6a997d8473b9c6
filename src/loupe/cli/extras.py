"""Finds the extra of Loupe that installs a missing module, such as `train` for `mlflow`."""

PACKAGE = "loupe-upscale"
# The packages of the extras in pyproject.toml, repeated because a checkout that is not installed has no metadata.
EXTRAS = {
    "train": (
        "mlflow", "tensorflow", "keras", "scikit-learn", "optuna", "scikit-image", "fsspec", "joblib", "pyarrow",
        "pandas", "requests", "matplotlib", "scipy", "jinja2", "markdown-it-py", "sqlalchemy", "psutil",
        "onnx", "tf2onnx",
    ),
    "jax": ("jax",),
    "cluster": ("distributed", "psycopg", "s3fs"),
    "gpu": ("onnxruntime-gpu",),
    "demo": ("gradio",),
    "heic": ("pi-heif",),
    "jxl": ("pillow-jxl-plugin",),
}  # fmt: skip
# Packages that are imported under another name
IMPORT_NAMES = {"scikit-learn": "sklearn", "scikit-image": "skimage", "markdown-it-py": "markdown_it",
                "pi-heif": "pi_heif", "pillow-jxl-plugin": "pillow_jxl"}  # fmt: skip


def describe_missing_package(error: BaseException) -> str | None:
    """Return a line such as "needs mlflow: pip install 'loupe-upscale[train]'".

    Return None if the cause of the error is not a missing package of EXTRAS.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    module = (cause.name or "").partition(".")[0] if cause else ""
    for extra, packages in EXTRAS.items():
        for package in packages:
            if module == IMPORT_NAMES.get(package, package):
                return f"needs {package}: pip install '{PACKAGE}[{extra}]'"
    return None
