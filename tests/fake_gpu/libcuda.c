// A driver whose GPU is main memory. It is stricter than a real one: nothing that is queued on a stream happens before
// somebody waits for the stream, addresses of the GPU are none of the host, and every thread has to name its context.
// FAKE_GPUS: how many there are. FAKE_CAPABILITY: such as 86. FAKE_MEMORY: most bytes of one allocation.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_CONTEXT = 201, INVALID_HANDLE = 400 };
enum { COPY, LAUNCH };

typedef void (*kernel)(void);
typedef struct {
    int kind;
    void *target, *source, *staged;
    size_t bytes;
    kernel launched;
} work;

static const uint64_t TAG = 1ull << 60;
static void *const CONTEXT = (void *)0x1234, *const STREAM = (void *)0x5678;
static __thread void *current;
static work queue[64];
static int queued, live;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int add(work next, void *stream) {
    if (current != CONTEXT) return NO_CONTEXT;
    if (stream != STREAM || queued == 64) return INVALID_HANDLE;
    queue[queued++] = next;
    return SUCCESS;
}

static void *place(uint64_t address) { return address & TAG ? (void *)(uintptr_t)(address & ~TAG) : NULL; }

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : setting("FAKE_GPUS", 1) ? SUCCESS : NO_DEVICE; }
int cuDeviceGet(int *device, int number) { return *device = 7, number < setting("FAKE_GPUS", 1) ? SUCCESS : NO_DEVICE; }

int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, "Fake GPU", length);
    return device == 7 ? SUCCESS : INVALID_VALUE;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    const int capability = setting("FAKE_CAPABILITY", 86);
    *value = attribute == 75 ? capability / 10 : capability % 10;
    return device == 7 && (attribute == 75 || attribute == 76) ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = CONTEXT;
    return device == 7 ? SUCCESS : INVALID_VALUE;
}

int cuCtxSetCurrent(void *context) { return current = context, context == CONTEXT ? SUCCESS : INVALID_VALUE; }
int cuStreamCreate(void **stream, unsigned flags) {
    *stream = STREAM;
    return flags == 1 && current == CONTEXT ? SUCCESS : INVALID_VALUE;
}

int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    void *memory = NULL;
    if (current != CONTEXT) return NO_CONTEXT;
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > (size_t)setting("FAKE_MEMORY", 1 << 30) || posix_memalign(&memory, 256, bytes)) return OUT_OF_MEMORY;
    memset(memory, 0xcd, bytes);
    *address = (uint64_t)(uintptr_t)memory | TAG;
    ++live;
    return SUCCESS;
}

int cuMemFree_v2(uint64_t address) {
    if (current != CONTEXT) return NO_CONTEXT;
    if (!place(address)) return INVALID_VALUE;
    free(place(address));
    --live;
    return SUCCESS;
}

int cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t bytes, void *stream) {
    if (!place(target) || (uint64_t)(uintptr_t)source & TAG) return INVALID_VALUE;
    work next = {COPY, place(target), NULL, malloc(bytes), bytes, NULL};
    memcpy(next.staged, source, bytes);
    return add(next, stream);
}

int cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t bytes, void *stream) {
    if (!place(source) || (uint64_t)(uintptr_t)target & TAG) return INVALID_VALUE;
    return add((work){COPY, target, place(source), NULL, bytes, NULL}, stream);
}

int cuStreamSynchronize(void *stream) {
    if (current != CONTEXT) return NO_CONTEXT;
    if (stream != STREAM) return INVALID_HANDLE;
    for (int i = 0; i < queued; ++i) {
        if (queue[i].kind == LAUNCH) queue[i].launched();
        else memcpy(queue[i].target, queue[i].staged ? queue[i].staged : queue[i].source, queue[i].bytes);
        free(queue[i].staged);
    }
    queued = 0;
    return SUCCESS;
}

int cuGetErrorString(int status, const char **text) {
    *text = status == OUT_OF_MEMORY ? "out of memory" : status == NO_DEVICE ? "no CUDA-capable device" : "invalid";
    return SUCCESS;
}

// For the library on top of it and for tests; no driver has these.
int fakeLaunch(kernel launched, void *stream) { return add((work){LAUNCH, NULL, NULL, NULL, 0, launched}, stream); }
int fakeLive(void) { return live; }
