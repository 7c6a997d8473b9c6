"""Finds the extra of Loupe that installs a missing module, such as `train` for `mlflow`."""

PACKAGE = "loupe-upscale"
# The packages of each extra, as in pyproject.toml. The metadata of the installed package is not used, because Loupe
# also runs from a checkout that is not installed.
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
# Names for `import` that differ from the names of the packages.
IMPORT_NAMES = {"scikit-learn": "sklearn", "scikit-image": "skimage", "markdown-it-py": "markdown_it",
                "pi-heif": "pi_heif", "pillow-jxl-plugin": "pillow_jxl"}  # fmt: skip


def describe_missing_package(error: BaseException) -> str | None:
    """Return one line with the command that installs the missing extra.

    Args:
        error: an import error, or an error that an import error caused.

    Returns:
        A line such as "needs mlflow: pip install 'loupe-upscale[train]'"; None if the error has another cause.
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
