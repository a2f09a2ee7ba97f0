// Ends what a begin.h began.

}  // namespace cnn_ext::cpu, of an instruction set

#if defined(CNN_EXT_TARGET)
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
