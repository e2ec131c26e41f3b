/*
 * The fake CUDA: its rules, and that it finds planted mistakes with some of 20 seeds.
 */
#include "fake_cuda.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cublas_v2.h>
#include <nccl.h>

static int failures;
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)
#define OK(call) CHECK((call) == cudaSuccess)

static cudaStream_t new_stream()
{
    cudaStream_t stream;
    OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

static void test_memory()
{
    dtr_fake_reset();
    void *device, *pinned;
    char host[64] = "";
    cudaStream_t stream = new_stream();
    OK(cudaMalloc(&device, 64));
    OK(cudaMallocHost(&pinned, 64));
    CHECK(dtr_fake_allocated() == 64 && dtr_fake_pinned() == 64 && dtr_fake_leaks() == 3);
    OK(cudaMemcpy(host, device, 64, cudaMemcpyDeviceToHost));
    CHECK(static_cast<unsigned char>(host[63]) == 0xff); /* poisoned */
    CHECK(cudaMemcpyAsync(host, device, 64, cudaMemcpyHostToDevice, stream) ==
          cudaErrorInvalidMemcpyDirection);
    CHECK(cudaMemcpyAsync(device, pinned, 65, cudaMemcpyHostToDevice, stream) ==
          cudaErrorInvalidValue);
    host[0] = 7; /* staged at the call */
    OK(cudaMemcpyAsync(device, host, 64, cudaMemcpyHostToDevice, stream));
    host[0] = 8;
    OK(cudaMemcpyAsync(pinned, device, 64, cudaMemcpyDeviceToHost, stream));
    CHECK(*static_cast<char *>(pinned) != 7); /* nobody has synchronized */
    OK(cudaStreamSynchronize(stream));
    CHECK(*static_cast<char *>(pinned) == 7);
    int64_t mistakes = dtr_fake_mistakes();
    static_cast<char *>(device)[64] = 0;
    OK(cudaFree(device));
    CHECK(dtr_fake_mistakes() == mistakes + 1); /* guard */
    CHECK(cudaFree(device) == cudaErrorInvalidValue);
    CHECK(cudaMemcpyAsync(device, pinned, 64, cudaMemcpyDefault, stream) == cudaErrorInvalidValue);
    OK(cudaFreeHost(pinned));
    OK(cudaStreamDestroy(stream));
    CHECK(dtr_fake_leaks() == 0);
}

/* With how many of 20 seeds the second stream reads what the first has written. */
static int count_right(bool with_event, bool with_graph)
{
    int right = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        dtr_fake_reset();
        dtr_fake_seed(seed);
        cudaStream_t a = new_stream(), b = new_stream();
        cudaEvent_t event, fork;
        OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        OK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
        int value = 0, seen = 0;
        if (with_graph) {
            OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
            OK(cudaEventRecord(fork, a));
            OK(cudaStreamWaitEvent(b, fork, 0));
        }
        dtr_simt_enqueue(a, [&] { value = 1; });
        if (with_event) {
            OK(cudaEventRecord(event, a));
            OK(cudaStreamWaitEvent(b, event, 0));
        }
        dtr_simt_enqueue(b, [&] { seen = value; });
        if (with_graph) {
            cudaGraph_t graph;
            cudaGraphExec_t exec;
            OK(cudaEventRecord(event, b));
            OK(cudaStreamWaitEvent(a, event, 0));
            OK(cudaStreamEndCapture(a, &graph));
            OK(cudaGraphInstantiate(&exec, graph, 0));
            OK(cudaGraphDestroy(graph));
            OK(cudaGraphLaunch(exec, a));
            CHECK(value == 0); /* nothing has run yet */
            OK(cudaGraphExecDestroy(exec));
        }
        OK(cudaDeviceSynchronize());
        right += seen;
        OK(cudaEventDestroy(event));
        OK(cudaEventDestroy(fork));
        OK(cudaStreamDestroy(a));
        OK(cudaStreamDestroy(b));
        CHECK(dtr_fake_leaks() == 0);
    }
    return right;
}

static void test_capture_rules()
{
    dtr_fake_reset();
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event;
    cudaGraph_t graph;
    void *memory;
    OK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    dtr_simt_enqueue(b, [] {});
    CHECK(cudaStreamEndCapture(b, &graph) == cudaErrorStreamCaptureUnmatched);
    CHECK(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    OK(cudaEventRecord(event, a));
    OK(cudaStreamWaitEvent(b, event, 0));
    dtr_simt_enqueue(b, [] {});
    CHECK(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureUnjoined);
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaMalloc(&memory, 4) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureInvalidated && !graph);
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaStreamSynchronize(a) == cudaErrorStreamCaptureUnsupported);
    CHECK(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureInvalidated);
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaLaunchHostFunc(
              nullptr, [](void *) {}, nullptr) == cudaErrorStreamCaptureImplicit);
    CHECK(cudaStreamEndCapture(a, &graph) == cudaErrorStreamCaptureInvalidated);
}

static void test_faults()
{
    dtr_fake_reset();
    void *memory;
    cudaGetLastError();
    dtr_fake_fault("cudaMalloc:2");
    OK(cudaMalloc(&memory, 4));
    CHECK(cudaMalloc(&memory, 4) == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation && cudaGetLastError() == cudaSuccess);
    CHECK(dtr_fake_calls("cudaMalloc") == 2);
    dtr_fake_fault("async:1:719");
    cudaStream_t stream = new_stream();
    dtr_simt_enqueue(stream, [] {});
    CHECK(cudaStreamSynchronize(stream) == cudaErrorLaunchFailure);
    CHECK(cudaMalloc(&memory, 4) == cudaErrorLaunchFailure); /* for good */
    dtr_fake_fault(nullptr);
}

static void test_devices()
{
    dtr_fake_reset();
    int count = -5;
    setenv("DTRAIN_FAKE_DEVICES", "nodriver", 1);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver && count == -5);
    setenv("DTRAIN_FAKE_DEVICES", "0", 1);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
    setenv("DTRAIN_FAKE_DEVICES", "3", 1);
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 3);
    cudaDeviceProp all, last;
    OK(cudaGetDeviceProperties(&all, 2));
    setenv("CUDA_VISIBLE_DEVICES", "2", 1);
    CHECK(cudaGetDeviceCount(&count) == cudaSuccess && count == 1);
    OK(cudaGetDeviceProperties(&last, 0));
    CHECK(memcmp(&all.uuid, &last.uuid, sizeof all.uuid) == 0);
    unsetenv("CUDA_VISIBLE_DEVICES");
    OK(cudaGetDeviceProperties(&last, 0));
    CHECK(memcmp(&all.uuid, &last.uuid, sizeof all.uuid) != 0);
    unsetenv("DTRAIN_FAKE_DEVICES");
}

static void test_product()
{
    dtr_fake_reset();
    float *memory, result[2];
    /* 1 + 2^-9 loses its last bit in bfloat16, 1 + 2^-12 in TF32 too. */
    const float values[3] = {1 + 0x1p-9F, 1 + 0x1p-12F, 1}, one = 1, zero = 0;
    cublasHandle_t handle;
    OK(cudaMalloc(reinterpret_cast<void **>(&memory), 5 * sizeof(float)));
    OK(cudaMemcpy(memory, values, sizeof values, cudaMemcpyHostToDevice));
    CHECK(cublasCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    const cublasComputeType_t types[] = {
        CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_16BF};
    for (int t = 0; t < 3; t++) {
        CHECK(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, 2, 1, 1, &one, memory, CUDA_R_32F, 1,
                  memory + 2, CUDA_R_32F, 1, &zero, memory + 3, CUDA_R_32F, 2, types[t],
                  CUBLAS_GEMM_DEFAULT) == CUBLAS_STATUS_SUCCESS);
        OK(cudaMemcpy(result, memory + 3, sizeof result, cudaMemcpyDeviceToHost));
        CHECK(result[0] == (t == 2 ? 1 : values[0]) && result[1] == (t >= 1 ? 1 : values[1]));
    }
    CHECK(cublasSgemm(handle, CUBLAS_OP_N, CUBLAS_OP_N, 2, 2, 2, &one, memory, 2, memory, 2, &zero,
              memory + 3, 2) == CUBLAS_STATUS_INVALID_VALUE);
    CHECK(cublasDestroy(handle) == CUBLAS_STATUS_SUCCESS);
    OK(cudaFree(memory));
    CHECK(dtr_fake_leaks() == 0);
}

/* One other rank, which always has the same; `other` is how far its operations differ. */
static int reduce_two(void *other, void *buffer, int64_t count, int type, int operation)
{
    if (type == ncclInt64 && operation == ncclMax)
        *static_cast<int64_t *>(buffer) += *static_cast<int *>(other);
    for (int64_t i = 0; type == ncclFloat && operation == ncclSum && i < count; i++)
        static_cast<float *>(buffer)[i] *= 2;
    return 0;
}

static void test_nccl(bool graph_first, int other)
{
    dtr_fake_reset();
    dtr_fake_exchange exchange = {&other, 0, 2, reduce_two, nullptr, nullptr};
    dtr_fake_exchange_set(&exchange);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t comm;
    ncclUniqueId id;
    CHECK(ncclGetUniqueId(&id) == ncclSuccess);
    CHECK(ncclCommInitRankConfig(&comm, 2, id, 0, &config) == ncclInProgress);
    ncclResult_t state = ncclInProgress;
    int polls = 0;
    for (; state == ncclInProgress; polls++)
        CHECK(ncclCommGetAsyncError(comm, &state) == ncclSuccess);
    CHECK(polls > 1 && state == ncclSuccess);
    cudaStream_t stream = new_stream();
    float *memory, value = 3;
    OK(cudaMalloc(reinterpret_cast<void **>(&memory), sizeof value));
    OK(cudaMemcpy(memory, &value, sizeof value, cudaMemcpyHostToDevice));
    cudaGraph_t graph;
    OK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    CHECK(ncclAllReduce(memory, memory, 1, ncclFloat, ncclSum, comm, stream) == ncclSuccess);
    OK(cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t exec;
    OK(cudaGraphInstantiate(&exec, graph, 0));
    OK(cudaGraphDestroy(graph));
    OK(cudaGraphLaunch(exec, stream));
    OK(cudaStreamSynchronize(stream));
    OK(cudaMemcpy(&value, memory, sizeof value, cudaMemcpyDeviceToHost));
    CHECK(value == (other ? 3 : 6));
    CHECK(ncclCommGetAsyncError(comm, &state) == ncclSuccess);
    CHECK(state == (other ? ncclInvalidUsage : ncclSuccess));
    int64_t mistakes = dtr_fake_mistakes();
    if (graph_first)
        OK(cudaGraphExecDestroy(exec));
    CHECK(ncclCommDestroy(comm) == ncclSuccess);
    CHECK(dtr_fake_mistakes() == mistakes + !graph_first);
    if (!graph_first)
        OK(cudaGraphExecDestroy(exec));
    OK(cudaFree(memory));
    OK(cudaStreamDestroy(stream));
    CHECK(dtr_fake_leaks() == 0);
    dtr_fake_exchange_set(nullptr);
}

int main()
{
    test_memory();
    for (bool graph : {false, true}) {
        CHECK(count_right(true, graph) == 20);
        int right = count_right(false, graph);
        CHECK(right > 0 && right < 20);
    }
    test_capture_rules();
    test_faults();
    test_devices();
    test_product();
    test_nccl(true, 0);
    test_nccl(false, 0);
    test_nccl(true, 1);
    dtr_fake_reset();
    printf("%d checks failed\n", failures);
    return failures != 0;
}
