"""Loading a pickle with a list of what it may import, whatever was found in it before.

Names are looked up again while it is loaded: those that are allowed, and no others. Files of joblib
hold pickles within arrays of objects: they are held to the list too.
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, cast

Allowed = Callable[[str, str, bool], bool]  # module, name, is it called


class NotAllowed(Exception):
    """A pickle asks for what is not in the list."""


def load_freely(data: bytes) -> Any:
    """Whatever the pickle does. By joblib's reader, which reads plain pickles too."""
    joblib = _joblib()
    return pickle.loads(data) if joblib is None else joblib.load(io.BytesIO(data))


def load_listed(file: Any, allowed: Allowed) -> Any:
    """Imports what is allowed; raises NotAllowed otherwise. `file`: unpacked."""
    joblib = _joblib()
    if joblib is None:
        return _plain(allowed)(file).load()
    return _with_arrays(joblib, allowed)(file).load()


def _joblib() -> Any:
    try:
        return cast(Any, importlib.import_module("joblib.numpy_pickle"))
    except ModuleNotFoundError:
        return None


def _check(allowed: Allowed, module: str, name: str, called: bool = False) -> None:
    if not allowed(module, name, called):
        what = "calls" if called else "imports"
        raise NotAllowed(f"it {what} {module}.{name}, which is not in the list of what it may")


def _plain(allowed: Allowed) -> Any:
    class Listed(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            _check(allowed, module_name, global_name)
            return super().find_class(module_name, global_name)

    return Listed


def _with_arrays(joblib: Any, allowed: Allowed) -> Any:
    """joblib's reader, which is written in Python: what it calls can be looked at too."""
    base, wrapper = joblib.NumpyUnpickler, joblib.NumpyArrayWrapper

    class Array(wrapper):
        def read_array(self, unpickler: Any, *more: Any) -> Any:
            if not self.dtype.hasobject:
                return wrapper.read_array(self, unpickler, *more)
            return Listed(unpickler.file_handle).load()

    class Listed(base):
        dispatch: ClassVar[dict[int, Any]] = dict(base.dispatch)

        def __init__(self, file: Any) -> None:
            base.__init__(self, "", file, ensure_native_byte_order=True)
            self.names: dict[int, tuple[Any, str, str]] = {}

        def find_class(self, module: str, name: str) -> Any:
            _check(allowed, module, name)
            found = base.find_class(self, module, name)
            if found is wrapper:
                return Array
            if found is joblib.NDArrayWrapper:  # reads other files
                raise NotAllowed("it is of joblib before 0.10, which reads files beside it")
            self.names[id(found)] = (found, module, name)
            return found

        def called(self, what: Any) -> None:
            known = self.names.get(id(what))
            if known is None or known[0] is not what:
                raise NotAllowed(f"it calls {what!r:.80}, which it has not imported")
            _check(allowed, known[1], known[2], called=True)

        def load_reduce(self) -> None:
            self.called(self.stack[-2])
            base.load_reduce(self)

        def load_inst(self) -> None:
            raise NotAllowed("it makes objects by INST, which only Python 2 writes")

        def load_obj(self) -> None:
            raise NotAllowed("it makes objects by OBJ, which only Python 2 writes")

        dispatch[pickle.REDUCE[0]] = load_reduce
        dispatch[pickle.INST[0]] = load_inst
        dispatch[pickle.OBJ[0]] = load_obj

    return Listed
