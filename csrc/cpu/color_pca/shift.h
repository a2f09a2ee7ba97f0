// Adds one colour to every pixel of an image (Krizhevsky, Sutskever and Hinton 2012, section 4.1),
// and its transpose, the sum of all pixels. Included by isa/.
//
// Plain loops over contiguous memory, which the compiler vectorises. Where channels take turns,
// their shifts are written out once as a pattern of whole cache lines.
#pragma once

#include "../vec.h"

// Writes `cycle` values again and again, `count` cells in all; the first `cycle` are there already.
template <typename T>
inline void repeat(int64_t cycle, int64_t count, T* cells) {
  for (int64_t done = cycle; done < count; done *= 2) {
    const int64_t more = count - done < done ? count - done : done;
    __builtin_memcpy(cells + done, cells, more * sizeof(T));
  }
}

// y = x + shift, one shift for all
template <typename T>
inline void shift_cells_alike(int64_t count, const T* __restrict x, T shift, T* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] + shift;
}

// y = x + shift
template <typename T>
inline void shift_cells(int64_t count, const T* __restrict x, const T* __restrict shift,
                        T* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = x[i] + shift[i];
}

// Saturating sums that need no wider type.
inline uint8_t shifted_byte(uint8_t x, uint8_t add, uint8_t subtract) {
  const auto room = static_cast<uint8_t>(255 - add);
  const auto sum = static_cast<uint8_t>((x < room ? x : room) + add);
  return static_cast<uint8_t>((sum > subtract ? sum : subtract) - subtract);
}

inline void shift_bytes_alike(int64_t count, const uint8_t* __restrict x, uint8_t add,
                              uint8_t subtract, uint8_t* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = shifted_byte(x[i], add, subtract);
}

inline void shift_bytes(int64_t count, const uint8_t* __restrict x, const uint8_t* __restrict add,
                        const uint8_t* __restrict subtract, uint8_t* __restrict y) {
  for (int64_t i = 0; i < count; ++i) y[i] = shifted_byte(x[i], add[i], subtract[i]);
}

// The cells of a task: where they begin, and how many they are.
struct ShiftTask {
  int64_t row, start, end;
};
template <typename T, typename Shift>
inline ShiftTask shift_task(const ColorShift<T, Shift>& p, int64_t task) {
  const int64_t row = task / p.blocks, within = task % p.blocks * p.block;
  const int64_t left = p.layout.length - within;
  const int64_t start = row * p.layout.length + within;
  return {row, start, start + (left < p.block ? left : p.block)};
}

// Tasks first <= i < last. workspace: p.pattern elements.
template <typename T>
void add_shift(const ColorShift<T, T>& p, int64_t first, int64_t last, T* workspace) {
  int64_t written = -1;
  for (int64_t index = first; index < last; ++index) {
    const ShiftTask task = shift_task(p, index);
    const int64_t row = task.row % p.shift_rows;
    const T* const shifts = p.shifts + row * p.layout.cycle;
    if (p.layout.cycle == 1) {
      shift_cells_alike(task.end - task.start, p.input + task.start, shifts[0],
                        p.output + task.start);
      continue;
    }
    if (row != written) {
      for (int64_t c = 0; c < p.layout.cycle; ++c) workspace[c] = shifts[c];
      repeat(p.layout.cycle, p.pattern, workspace);
    }
    written = row;
    for (int64_t i = task.start; i < task.end; i += p.pattern) {
      const int64_t count = task.end - i < p.pattern ? task.end - i : p.pattern;
      shift_cells(count, p.input + i, workspace, p.output + i);
    }
  }
}

// Bytes start <= i < end of a row by their tables. Rare: shifts that end in a half are handmade.
inline void look_bytes_up(const ColorShift<uint8_t, ByteShift>& p, const ByteShift* shifts,
                          const ShiftTask& task) {
  const int64_t cycle = p.layout.cycle;
  for (int64_t c = 0; c < cycle; ++c) {
    const ByteShift& shift = shifts[c];
    for (int64_t i = task.start + c; i < task.end; i += cycle) {
      const uint8_t x = p.input[i];
      p.output[i] =
          shift.table == nullptr ? shifted_byte(x, shift.add, shift.subtract) : shift.table[x];
    }
  }
}

// The same for bytes, in every table (T is not used). workspace: 2 * p.pattern elements.
template <typename T>
void add_shift_to_bytes(const ColorShift<uint8_t, ByteShift>& p, int64_t first, int64_t last,
                        uint8_t* workspace) {
  const int64_t cycle = p.layout.cycle;
  uint8_t* const add = workspace;
  uint8_t* const subtract = workspace + p.pattern;
  int64_t written = -1;
  bool tables = false;
  for (int64_t index = first; index < last; ++index) {
    const ShiftTask task = shift_task(p, index);
    const int64_t row = task.row % p.shift_rows;
    const ByteShift* const shifts = p.shifts + row * cycle;
    if (cycle == 1 && shifts[0].table == nullptr) {
      shift_bytes_alike(task.end - task.start, p.input + task.start, shifts[0].add,
                        shifts[0].subtract, p.output + task.start);
      continue;
    }
    if (row != written) {
      tables = false;
      for (int64_t c = 0; c < cycle; ++c) {
        add[c] = shifts[c].add;
        subtract[c] = shifts[c].subtract;
        tables = tables || shifts[c].table != nullptr;
      }
      repeat(cycle, p.pattern, add);
      repeat(cycle, p.pattern, subtract);
      written = row;
    }
    if (tables) {
      look_bytes_up(p, shifts, task);
      continue;
    }
    for (int64_t i = task.start; i < task.end; i += p.pattern) {
      const int64_t count = task.end - i < p.pattern ? task.end - i : p.pattern;
      shift_bytes(count, p.input + i, add, subtract, p.output + i);
    }
  }
}

// Rows first <= i < last. workspace: p.pattern elements.
template <typename T>
void sum_pixels(const ColorSums<T>& p, int64_t first, int64_t last, double* workspace) {
  const int64_t length = p.layout.length, cycle = p.layout.cycle;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t i = 0; i < p.pattern; ++i) workspace[i] = 0;
    const T* const x = p.input + row * length;
    for (int64_t start = 0; start < length; start += p.pattern) {
      const int64_t count = length - start < p.pattern ? length - start : p.pattern;
      const T* __restrict cells = x + start;
      double* __restrict sums = workspace;
      for (int64_t i = 0; i < count; ++i) sums[i] += cells[i];
    }
    double* const sums = p.sums + row * cycle;
    for (int64_t c = 0; c < cycle; ++c) sums[c] = 0;
    for (int64_t i = 0; i < p.pattern; ++i) sums[i % cycle] += workspace[i];
  }
}
