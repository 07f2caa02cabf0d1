// Linked into every program of an AddressSanitizer build. Open MPI unloads its plugins at the end,
// and a leak whose code is gone can no longer be told to be theirs; so nothing is ever unloaded.
extern "C" int dlclose(void* /*handle*/) { return 0; }
