// Runs a kernel of gather.cu on the CPU, one lane after another, and records what each lane did.
// Compiled as a shared library with MBFLOW_EMULATE defined; kernels are found in it by their names.
#include "gather.cu"

using Kernel = void (*)(PARAMETERS);

extern "C" void emulate(Kernel kernel, unsigned blocks, unsigned threads, Recording* into,
                        PARAMETERS) {
    recording = into;
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    for (unsigned block = 0; block < blocks; ++block) {
        for (unsigned thread = 0; thread < threads; ++thread) {
            blockIdx = {block, 0, 0};
            threadIdx = {thread, 0, 0};
            kernel(ids, id_type, count, table, rows, pitch, width, scales, slots, hot, hot_rows,
                   hot_pitch, hot_scales, out, out_pitch, lane_bits, first_bad);
        }
    }
}

// The conversions by themselves, for all values of 16 bits and many of 32.
#define CONVERT(NAME, TYPE)                                                                       \
    extern "C" void widen_##NAME(const u32* bits, float* values, i64 count) {                     \
        for (i64 k = 0; k < count; ++k) values[k] = TYPE::widen(bits[k]);                         \
    }                                                                                             \
    extern "C" void narrow_##NAME(const float* values, u32* bits, i64 count) {                    \
        for (i64 k = 0; k < count; ++k) bits[k] = TYPE::narrow(values[k]);                        \
    }
CONVERT(float16, Float16)
CONVERT(bfloat16, BFloat16)
