// Runs @NAME@ on made-up inputs with the C++ classes of its header, and prints what it gives.
//
//   c++ -O2 example.cpp -o example ./@NAME@.so -Wl,-rpath,'$ORIGIN' && ./example
#include <cstdio>
#include <cstring>
#include <exception>
#include <vector>

#include "@NAME@.h"

// Memory for a tensor with these dims; vectors are aligned for every dtype.
static std::vector<unsigned char> memory(const naru_tensor &t, const std::vector<int64_t> &dims)
{
    size_t bytes = static_cast<size_t>(t.item_size);
    for (int64_t d : dims)
        bytes *= static_cast<size_t>(d);
    return std::vector<unsigned char>(bytes);
}

int main()
try {
    const naru_library *library = @PREFIX@_library();
    const std::vector<int64_t> all = {@SIZES@}; // of the symbols, if there are any
    const std::vector<int64_t> sizes(all.begin(), all.begin() + @UPPER@_SYMBOLS);
    naru::@PREFIX@::Model model;
    naru::@PREFIX@::Context context(model, sizes);

    std::vector<std::vector<unsigned char>> data;
    std::vector<naru_input> inputs;
    std::vector<naru_output> outputs;
    for (int k = 0; k < @UPPER@_INPUTS; k++) {
        const naru_tensor &t = library->input[k];
        std::vector<int64_t> dims;
        for (int axis = 0; axis < t.rank; axis++)
            dims.push_back(t.shape[axis] >= 0 ? t.shape[axis]
                                              : sizes[static_cast<size_t>(-1 - t.shape[axis])]);
        data.push_back(memory(t, dims)); // zeros
        inputs.push_back({data.back().data(), data.back().size()});
    }
    for (int k = 0; k < @UPPER@_OUTPUTS; k++) {
        const naru_tensor &t = library->output[k];
        data.push_back(t.late ? std::vector<unsigned char>() : memory(t, context.shape(k)));
        outputs.push_back({t.late ? nullptr : data.back().data(), data.back().size()});
    }
    context.run(inputs, outputs);

    std::printf("%s on %s\n", library->name, model.level().c_str());
    for (int k = 0; k < @UPPER@_OUTPUTS; k++) {
        std::printf("%s:", library->output[k].name);
        for (int64_t d : context.shape(k))
            std::printf(" %lld", static_cast<long long>(d));
        float first = 0;
        if (library->output[k].dtype == NARU_DTYPE_FLOAT32 && outputs[static_cast<size_t>(k)].size)
            std::memcpy(&first, outputs[static_cast<size_t>(k)].data, sizeof first);
        std::printf("; first %g\n", static_cast<double>(first));
    }
    return 0;
} catch (const std::exception &e) {
    std::fprintf(stderr, "failed: %s\n", e.what());
    return 1;
}
