/* A CUDA runtime of one line: kernels run on the CPU (tests/simt/) when they are launched. */
cudaError_t dtr_simt_enqueue(cudaStream_t, std::function<void()> work)
{
    work();
    return cudaSuccess;
}
