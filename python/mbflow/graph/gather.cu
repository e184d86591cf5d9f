// Gathers rows of a table that lies in host memory, which the GPU reads over PCI Express itself.
//
// The bus carries requests for lines of 128 bytes, and a warp makes one request for each line that
// its load touches, each time anew. So what counts is that no line of a row is touched by two
// loads. The aligned kernels begin at the line in which a row begins, by its address, load 16 bytes
// in every lane, and leave lanes idle that lie wholly outside the row: a row costs as many requests
// as it has lines, which is the least there is (arXiv 2103.03330, automatic address alignment;
// arXiv 2006.06890 for rounding down and masking).
//
// The file needs no header, so that NVRTC compiles it as it is. The tests compile it by a C++
// compiler with MBFLOW_EMULATE, where the header below stands in for the GPU and records every load
// and store of every lane.

#ifdef MBFLOW_EMULATE
#include "gather_emulation.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8, "addresses are held in 64 bits");

// How many loads a lane has under way before it stores the first: a round trip over the bus takes
// far longer than a load takes to issue.
#ifndef MBFLOW_AHEAD
#define MBFLOW_AHEAD 2
#endif

namespace {

const u64 LINE = 128;  // bytes of a request at most
const int CHUNK = 16;  // bytes that a lane loads

// ---- Loads and stores -------------------------------------------------------------------------
//
// `row` and `number` say which load instruction of a warp it is; only the emulation asks.

#ifndef MBFLOW_EMULATE

// The table does not change while a kernel runs, so that loads may take the read-only path.
template <typename T>
__device__ __forceinline__ T load(u64 address, i64 row, int number) {
    return __ldg(reinterpret_cast<const T*>(address));
}

template <typename T>
__device__ __forceinline__ void store(u64 address, T value) {
    *reinterpret_cast<T*>(address) = value;
}

#endif

// ---- Element types ----------------------------------------------------------------------------
//
// Conversions are written out, because cuda_fp16.h is more than NVRTC and a C++ compiler both have.
// All round to the nearest, ties to even; what is not a number stays so, quiet.

struct Byte {
    static const int SIZE = 1;
};

struct Float32 {
    static const int SIZE = 4;
    static __device__ __forceinline__ float widen(u32 bits) { return __uint_as_float(bits); }
    static __device__ __forceinline__ u32 narrow(float value) { return __float_as_uint(value); }
};

struct BFloat16 {
    static const int SIZE = 2;
    static __device__ __forceinline__ float widen(u32 bits) { return __uint_as_float(bits << 16); }
    static __device__ __forceinline__ u32 narrow(float value) {
        u32 bits = __float_as_uint(value);
        // Rounding could carry a NaN over into infinity, or to zero of the other sign.
        if ((bits & 0x7fffffffu) > 0x7f800000u) return (bits >> 16) | 0x40u;
        return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    }
};

struct Float16 {
    static const int SIZE = 2;
    static __device__ __forceinline__ float widen(u32 bits) {
        u32 sign = (bits & 0x8000u) << 16;
        // As a float32 with the exponent 112 too small; multiplied by 2^112 also subnormal numbers
        // come out right, and exactly.
        float scaled = __uint_as_float((bits & 0x7fffu) << 13) * __uint_as_float(0x77800000u);
        u32 result = __float_as_uint(scaled);
        if ((bits & 0x7c00u) == 0x7c00u) {
            result |= 0x7f800000u;
            if (bits & 0x3ffu) result |= 0x400000u;
        }
        return __uint_as_float(result | sign);
    }
    static __device__ __forceinline__ u32 narrow(float value) {
        u32 bits = __float_as_uint(value);
        u32 sign = (bits >> 16) & 0x8000u;
        bits &= 0x7fffffffu;
        if (bits > 0x7f800000u) return sign | 0x7e00u | ((bits >> 13) & 0x3ffu);
        // From 65520 on, half a step above the largest number, everything rounds to infinity.
        if (bits >= 0x477ff000u) return sign | 0x7c00u;
        if (bits < 0x38800000u) {
            // Below 2^-14 the steps are those of 0.5 in float32, whose addition rounds as wanted.
            float sum = __uint_as_float(bits) + 0.5f;
            return sign | (__float_as_uint(sum) - 0x3f000000u);
        }
        return sign | ((bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13);
    }
};

struct Int8 {
    static const int SIZE = 1;
    static __device__ __forceinline__ float widen(u32 bits) {
        return static_cast<float>(static_cast<signed char>(bits));
    }
};

template <typename A, typename B>
struct Same {
    static const bool VALUE = false;
};
template <typename A>
struct Same<A, A> {
    static const bool VALUE = true;
};

// ---- Where a row comes from -------------------------------------------------------------------

// All parameters of a kernel but the table's width, which a kernel needs in bytes.
struct Request {
    const void* ids;
    int id_type;
    i64 count;
    u64 table;
    i64 rows;
    i64 pitch;
    const float* scales;
    const int* slots;
    u64 hot;
    i64 hot_rows;
    i64 hot_pitch;
    const float* hot_scales;
    u64* first_bad;
};

struct Row {
    bool valid;
    u64 address;
    float scale;
};

__device__ __forceinline__ i64 id_at(const Request& request, i64 position) {
    // The same in all threads, so that asking each time costs less than kernels for each type.
    if (request.id_type == 0) return __ldg(static_cast<const i64*>(request.ids) + position);
    if (request.id_type == 1) return __ldg(static_cast<const int*>(request.ids) + position);
    return __ldg(static_cast<const u32*>(request.ids) + position);
}

// The row at a position of the ids: in the hot table where it has a slot there, else in the table.
// An id beyond the table makes no address; its position is noted, and its row is zeros.
__device__ __forceinline__ Row find_row(const Request& request, i64 position, bool first_lane) {
    Row row = {false, 0, 0.0f};
    i64 id = id_at(request, position);
    if (id < 0 || id >= request.rows) {
        if (first_lane) atomicMin(request.first_bad, static_cast<u64>(position));
        return row;
    }
    row.valid = true;
    i64 slot = request.slots ? __ldg(request.slots + id) : -1;
    // A slot beyond the hot table counts as none: the table has every row.
    bool hot = slot >= 0 && slot < request.hot_rows;
    row.address = hot ? request.hot + static_cast<u64>(slot) * static_cast<u64>(request.hot_pitch)
                      : request.table + static_cast<u64>(id) * static_cast<u64>(request.pitch);
    const float* scales = hot ? request.hot_scales : request.scales;
    row.scale = scales ? __ldg(scales + (hot ? slot : id)) : 1.0f;
    return row;
}

// ---- From a chunk of 16 bytes to the output ---------------------------------------------------

// Stores the bytes from `low` to `high` of up to 16, which begin at an address, each once, by the
// widest stores that the address and the two ends allow. LEAST is the narrowest that can occur.
// Loops are unrolled since an index known only at run time would put the words into local memory.
template <int LEAST>
__device__ __forceinline__ void store_block(u64 to, const u32* words, int low, int high) {
    if (low >= high) return;
    u32 mixed = static_cast<u32>(to) | static_cast<u32>(low) | static_cast<u32>(high) | 16u;
    u32 unit = mixed & (~mixed + 1u);  // the largest power of two that divides all three, up to 16
    if (unit == 16u) {
        store<uint4>(to, make_uint4(words[0], words[1], words[2], words[3]));
    } else if (unit == 8u) {
#pragma unroll
        for (int k = 0; k < 16; k += 8)
            if (k >= low && k < high)
                store<uint2>(to + k, make_uint2(words[k / 4], words[k / 4 + 1]));
    } else if (LEAST >= 4 || unit == 4u) {
#pragma unroll
        for (int k = 0; k < 16; k += 4)
            if (k >= low && k < high) store<u32>(to + k, words[k / 4]);
    } else if (LEAST == 2 || unit == 2u) {
#pragma unroll
        for (int k = 0; k < 16; k += 2)
            if (k >= low && k < high)
                store<u16>(to + k, static_cast<u16>(words[k / 4] >> (k % 4 * 8)));
    } else {
#pragma unroll
        for (int k = 0; k < 16; k += 1)
            if (k >= low && k < high)
                store<u8>(to + k, static_cast<u8>(words[k / 4] >> (k % 4 * 8)));
    }
}

// Converts a chunk and stores its bytes from `low` to `high`, which lie in the row. `to` is where
// the chunk's first byte would go.
template <typename In, typename Out>
__device__ __forceinline__ void emit(uint4 chunk, float scale, u64 to, int low, int high) {
    u32 held[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    if constexpr (Same<In, Out>::VALUE) {
        store_block<In::SIZE>(to, held, low, high);
    } else {
        const int elements = CHUNK / In::SIZE;
        const int bytes = elements * Out::SIZE;
        // A whole block at least, as store_block names the words of one.
        u32 words[bytes < 16 ? 4 : bytes / 4] = {};
#pragma unroll
        for (int k = 0; k < elements; ++k) {
            u32 bits = held[k * In::SIZE / 4] >> (k * In::SIZE % 4 * 8);
            if (In::SIZE < 4) bits &= (1u << (In::SIZE * 8 % 32)) - 1u;
            float value = In::widen(bits);
            // Only int8 has scales: a multiplication would not keep every other number as it is.
            if (Same<In, Int8>::VALUE) value *= scale;
            words[k * Out::SIZE / 4] |= Out::narrow(value) << (k * Out::SIZE % 4 * 8);
        }
        // Of a row, elements lie whole within a chunk, so that both divisions are exact.
        low = low / In::SIZE * Out::SIZE;
        high = high / In::SIZE * Out::SIZE;
#pragma unroll
        for (int piece = 0; piece < bytes; piece += 16) {
            int begin = low > piece ? low - piece : 0;
            int end = high - piece < 16 ? high - piece : 16;
            store_block<Out::SIZE>(to + piece, words + piece / 4, begin, end);
        }
    }
}

// ---- The kernels ------------------------------------------------------------------------------

// A group of 2^lane_bits lanes takes a row, and the next one a whole grid further on.
template <typename In, typename Out>
__device__ __forceinline__ void gather(const Request& request, i64 width, u64 out, i64 out_pitch,
                                       int lane_bits) {
    const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const i64 groups = (static_cast<i64>(gridDim.x) * blockDim.x) >> lane_bits;
    const int lanes = 1 << lane_bits;
    const int lane = static_cast<int>(thread) & (lanes - 1);
    const u64 row_bytes = static_cast<u64>(width) * In::SIZE;
    const u64 window = static_cast<u64>(lanes) * CHUNK;

    for (i64 position = thread >> lane_bits; position < request.count; position += groups) {
        const Row row = find_row(request, position, lane == 0);
        const u64 end = row.address + row_bytes;
        // Up to eight lanes hold a narrow row in one window from the first 16 bytes that it
        // touches, and more rows fit into a warp. All others begin at a whole line: every eight
        // lanes then load one line, so that the count is the same whether the GPU merges the lanes
        // of a warp or only those of a quarter.
        u64 begin = row.address & ~static_cast<u64>(CHUNK - 1);
        if (lanes > 8 || end > begin + window) begin = row.address & ~(LINE - 1);

        const u64 to = out + static_cast<u64>(position) * static_cast<u64>(out_pitch);
        int loads = 0;
        for (; begin < end; begin += MBFLOW_AHEAD * window, loads += MBFLOW_AHEAD) {
            uint4 chunks[MBFLOW_AHEAD];
#pragma unroll
            for (int k = 0; k < MBFLOW_AHEAD; ++k) {
                const u64 at = begin + k * window + static_cast<u64>(lane) * CHUNK;
                chunks[k] = make_uint4(0u, 0u, 0u, 0u);
                // Partly inside, all 16 bytes are read: they lie in a line that the row touches.
                if (row.valid && at + CHUNK > row.address && at < end)
                    chunks[k] = load<uint4>(at, position, loads + k);
            }
#pragma unroll
            for (int k = 0; k < MBFLOW_AHEAD; ++k) {
                const u64 at = begin + k * window + static_cast<u64>(lane) * CHUNK;
                if (at + CHUNK > row.address && at < end) {
                    const i64 past = static_cast<i64>(at - row.address);  // below 0 at the edge
                    const int low = past < 0 ? static_cast<int>(-past) : 0;
                    const int high = end - at < CHUNK ? static_cast<int>(end - at) : CHUNK;
                    emit<In, Out>(chunks[k], row.scale, to + past / In::SIZE * Out::SIZE, low, high);
                }
            }
        }
    }
}

// For comparison: a warp takes a row from its own first byte, so that a load that begins within a
// line touches a line more, which the next load touches again.
template <typename T>
__device__ __forceinline__ void gather_naive(const Request& request, i64 width, u64 out,
                                             i64 out_pitch) {
    const i64 thread = static_cast<i64>(blockIdx.x) * blockDim.x + threadIdx.x;
    const i64 groups = (static_cast<i64>(gridDim.x) * blockDim.x) >> 5;
    const int lane = static_cast<int>(thread) & 31;
    const i64 units = width / static_cast<i64>(sizeof(T));

    for (i64 position = thread >> 5; position < request.count; position += groups) {
        const Row row = find_row(request, position, lane == 0);
        const u64 to = out + static_cast<u64>(position) * static_cast<u64>(out_pitch);
        int loads = 0;
        for (i64 unit = lane; unit < units; unit += 32, ++loads) {
            const u64 offset = static_cast<u64>(unit) * sizeof(T);
            T value = 0;
            if (row.valid) value = load<T>(row.address + offset, position, loads);
            store<T>(to + offset, value);
        }
    }
}

}  // namespace

// All kernels take the same parameters:
//
//   ids         count ids of rows, in the order of the output
//   id_type     0: int64, 1: int32, 2: uint32
//   count       how many ids, and rows of the output; may be 0
//   table       the first row of the table, in host memory that is mapped for the GPU
//   rows        rows of the table; other ids give zeros and set first_bad
//   pitch       bytes from a row of the table to the next
//   width       elements of a row; bytes for gather_copy and gather_naive_*
//   scales      one float32 for each row of an int8 table, or null for 1; in GPU memory, as each
//               would cost a request of its own
//   slots       for each row of the table its row in the hot table, or -1; or null
//   hot         the first row of the hot table, in GPU memory, or null
//   hot_rows    rows of the hot table
//   hot_pitch   bytes from a row of the hot table to the next
//   hot_scales  as scales, for each row of the hot table, or null for 1
//   out         the first row of the output, in GPU memory
//   out_pitch   bytes from a row of the output to the next
//   lane_bits   binary logarithm of how many lanes take a row, 0 to 5
//   first_bad   the least position of an id that is out of range is put here, by minimum
//
// Tables begin at a multiple of the element's size, as do pitches; so does the output. The 16 bytes
// around any byte of a row must be readable, as they are wherever memory is mapped by pages.
#define PARAMETERS                                                                                \
    const void *ids, int id_type, i64 count, const void *table, i64 rows, i64 pitch, i64 width,   \
        const float *scales, const int *slots, const void *hot, i64 hot_rows, i64 hot_pitch,      \
        const float *hot_scales, void *out, i64 out_pitch, int lane_bits, u64 *first_bad
#define REQUEST                                                                                   \
    Request request = {ids,   id_type, count, reinterpret_cast<u64>(table), rows, pitch,          \
                       scales, slots, reinterpret_cast<u64>(hot), hot_rows, hot_pitch,            \
                       hot_scales, first_bad}

#define GATHER(NAME, IN, OUT)                                                                     \
    extern "C" __global__ void gather_##NAME(PARAMETERS) {                                        \
        REQUEST;                                                                                  \
        gather<IN, OUT>(request, width, reinterpret_cast<u64>(out), out_pitch, lane_bits);        \
    }
#define GATHER_NAIVE(SIZE, TYPE)                                                                  \
    extern "C" __global__ void gather_naive_##SIZE(PARAMETERS) {                                  \
        REQUEST;                                                                                  \
        gather_naive<TYPE>(request, width, reinterpret_cast<u64>(out), out_pitch);                \
    }

GATHER(copy, Byte, Byte)
GATHER(float32_to_float16, Float32, Float16)
GATHER(float32_to_bfloat16, Float32, BFloat16)
GATHER(float16_to_float32, Float16, Float32)
GATHER(float16_to_bfloat16, Float16, BFloat16)
GATHER(bfloat16_to_float32, BFloat16, Float32)
GATHER(bfloat16_to_float16, BFloat16, Float16)
GATHER(int8_to_float32, Int8, Float32)
GATHER(int8_to_float16, Int8, Float16)
GATHER(int8_to_bfloat16, Int8, BFloat16)
GATHER_NAIVE(1, u8)
GATHER_NAIVE(2, u16)
GATHER_NAIVE(4, u32)
