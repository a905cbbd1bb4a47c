"""Commands that send a signal to themselves, as code for a new process. ``{by}`` is the number of the signal."""

IN_DESTRUCTOR = """
import os, signal, time
class Interrupting:
    def __del__(self):
        os.kill(os.getpid(), {by})
        for _ in range(1000):
            pass

def command(**given):
    Interrupting()
    while True:
        time.sleep(0.01)
"""
SWALLOWED = """
import os, signal, time
def command(**given):
    try:
        os.kill(os.getpid(), {by})
        for _ in range(1000):
            pass
    except:
        pass
    while True:
        time.sleep(0.01)
"""
PRINTED_BY_NATIVE_CODE = """
import ctypes, time
def command(**given):
    ctypes.pythonapi.PyRun_SimpleString(b"import os, time; os.kill(os.getpid(), {by}); time.sleep(60)")
    while True:
        time.sleep(0.01)
"""
CLEANING_UP = """
import os, signal, time
def command(**given):
    try:
        os.kill(os.getpid(), {by})
        time.sleep(60)
    finally:
        ends_at = time.monotonic() + 2
        while time.monotonic() < ends_at:
            time.sleep(0.01)
        print("cleaned up")
"""
REPLACED = """
import os, signal, time
import click
from common.errors import ConfigError

class PanicException(BaseException):
    pass

def command(**given):
    try:
        os.kill(os.getpid(), {by})
        time.sleep(60)
    except KeyboardInterrupt:
        raise {error} from None
"""
REPLACED_AT_IMPORT = """
import os, signal, time
class Module:
    @property
    def cli(self):
        try:
            os.kill(os.getpid(), {by})
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("numpy could not be imported") from None

sys.modules["given"] = Module()
run_program("producer", "given")
"""
REPLACED_AT_IMPORT_OF_CLICK = """
import os, signal, time
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "click":
            try:
                os.kill(os.getpid(), {by})
                time.sleep(60)
            except KeyboardInterrupt:
                raise RuntimeError("Error calling __set_name__") from None

sys.meta_path.insert(0, Finder)
command = None
"""
FAULT_SWALLOWED = """
import os, signal, time
def command(**given):
    try:
        os.kill(os.getpid(), {by})
        time.sleep(60)
    except:
        return 2
"""
HELD = """
import os, signal, time
from common.program.interrupts import hold_interrupts
def command(**given):
    with hold_interrupts():
        os.kill(os.getpid(), {by})
        ends_at = time.monotonic() + 2
        while time.monotonic() < ends_at:
            time.sleep(0.01)
        print("completed")
    print("continued")
"""
HELD_UNTIL_USE = """
import os, signal, time
from common.program.interrupts import hold_interrupts
def command(**given):
    with hold_interrupts():
        os.kill(os.getpid(), {by})
        try:
            with hold_interrupts(held=False):
                print("continued")
        finally:
            print("completed")
"""
IN_USE = """
import os, signal, time
from common.program.interrupts import hold_interrupts
def command(**given):
    with hold_interrupts():
        try:
            with hold_interrupts(held=False):
                os.kill(os.getpid(), {by})
                time.sleep(60)
                print("continued")
        finally:
            os.kill(os.getpid(), {by})
            print("completed")
"""
IN_NATIVE_CODE = """
import ctypes
def command(**given):
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    print("blocked", flush=True)
    library.pthread_mutex_lock(mutex)
"""
HELD_IN_NATIVE_CODE = """
import ctypes, os, threading, time
from common.program.interrupts import hold_interrupts
def command(**given):
    library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    library.pthread_mutex_init(mutex, None)
    library.pthread_mutex_lock(mutex)
    def interrupt():
        os.kill(os.getpid(), {by})
        time.sleep(2.5)  # longer than the watching thread waits outside of such a block
        library.pthread_mutex_unlock(mutex)
    with hold_interrupts():
        threading.Thread(target=interrupt).start()
        library.pthread_mutex_lock(mutex)
        print("completed")
    print("continued")
"""
WITH_NATIVE_THREADS = """
from tests.support.native_threads import start_native_reading
def command(**given):
    start_native_reading()
    print("done")
    return 3
"""
