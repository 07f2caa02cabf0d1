// In place of the CUDA driver for attention_plans_test.cc. cuDNN compiles attention for the device
// that it plans for and has the driver load that; this one says yes to everything, and does
// nothing.
#define SILENT(name) \
  extern "C" int name() { return 0; }
#define GIVES(name)                 \
  extern "C" int name(void** out) { \
    static int thing;               \
    *out = &thing;                  \
    return 0;                       \
  }

GIVES(cuKernelGetFunction)
GIVES(cuLibraryGetKernel)
GIVES(cuLibraryLoadData)
SILENT(cuCtxGetCurrent)
SILENT(cuCtxGetLimit)
SILENT(cuCtxPopCurrent)
SILENT(cuCtxPushCurrent)
SILENT(cuDeviceGet)
SILENT(cuDeviceGetCount)
SILENT(cuDriverGetVersion)
SILENT(cuFuncSetAttribute)
SILENT(cuGetErrorName)
SILENT(cuGetErrorString)
SILENT(cuKernelGetAttribute)
SILENT(cuKernelSetAttribute)
SILENT(cuLaunchCooperativeKernel)
SILENT(cuLaunchKernel)
SILENT(cuLaunchKernelEx)
SILENT(cuLibraryGetGlobal)
SILENT(cuLibraryLoadFromFile)
SILENT(cuLibraryUnload)
SILENT(cuLinkAddData)
SILENT(cuLinkComplete)
SILENT(cuLinkCreate)
SILENT(cuLinkDestroy)
SILENT(cuOccupancyMaxPotentialClusterSize)
SILENT(cuStreamGetCtx)
