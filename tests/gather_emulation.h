// What gather.cu finds in place of a GPU: indices of threads as plain variables, and loads and
// stores that say what they did. Included by gather.cu where MBFLOW_EMULATE is defined.
#pragma once

#include <cstdint>
#include <cstring>

#define __device__
#define __global__
#define __forceinline__ inline

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

struct uint2 {
    unsigned x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

static inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A load of a lane from a table: the instruction of its warp is named by the row (the position in
// the ids) and by how many loads the row had before.
struct Load {
    uint64_t address;
    int64_t thread, row;
    int32_t number, size;
};

struct Recording {
    Load* loads;
    int64_t capacity, count;
    // Pairs of addresses between which reading is allowed.
    const uint64_t* ranges;
    int64_t n_ranges;
    // The output's bytes, and how often each was written.
    uint64_t out, out_bytes;
    uint8_t* writes;
    // Stores of 1, 2, 4, 8 and 16 bytes.
    int64_t stores[5];
    // What must not be: reads and writes elsewhere, and addresses that their size does not divide.
    int64_t read_elsewhere, written_elsewhere, misaligned;
};
static Recording* recording;

static inline bool readable(uint64_t address, uint64_t size) {
    if (address % size) ++recording->misaligned;
    for (int64_t k = 0; k < recording->n_ranges; ++k)
        if (address >= recording->ranges[2 * k] && address + size <= recording->ranges[2 * k + 1])
            return true;
    ++recording->read_elsewhere;
    return false;
}

template <typename T>
static inline T __ldg(const T* pointer) {
    T value = {};
    if (readable(reinterpret_cast<uint64_t>(pointer), sizeof(T)))
        std::memcpy(&value, pointer, sizeof(T));
    return value;
}

template <typename T>
static inline T load(uint64_t address, int64_t row, int number) {
    T value = {};
    if (readable(address, sizeof(T)))
        std::memcpy(&value, reinterpret_cast<const void*>(address), sizeof(T));
    if (recording->count < recording->capacity) {
        int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
        recording->loads[recording->count] = {address, thread, row, number, sizeof(T)};
    }
    ++recording->count;
    return value;
}

template <typename T>
static inline void store(uint64_t address, T value) {
    if (address % sizeof(T)) ++recording->misaligned;
    if (address < recording->out || address + sizeof(T) > recording->out + recording->out_bytes) {
        ++recording->written_elsewhere;
        return;
    }
    std::memcpy(reinterpret_cast<void*>(address), &value, sizeof(T));
    for (unsigned k = 0; k < sizeof(T); ++k) ++recording->writes[address - recording->out + k];
    int width = 0;
    while (1u << width < sizeof(T)) ++width;
    ++recording->stores[width];
}

static inline void atomicMin(unsigned long long* word, unsigned long long value) {
    if (value < *word) *word = value;
}
