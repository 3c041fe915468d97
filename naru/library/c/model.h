/* @PREFIX@: a model as a library, made by naru @VERSION@ from @SOURCE@.
 *
@SIGNATURE@
 *
 * Link with the library, or open it with dlopen and ask for "naru_library". It needs the C library
 * only, keeps no global state but a pool of threads (made when a model asks for threads), and writes
 * nothing to a file. All functions may be called by any threads; a context by one at a time.
 */
#ifndef @UPPER@_H
#define @UPPER@_H

@LIBRARY@

/* ---- this model ---- */

@CONSTANTS@

#ifdef __cplusplus
extern "C" {
#endif

/* Opens the model: chooses the code for this CPU, and maps the file of weights (@WEIGHTS@) or takes
 * those that are given. `options` may be NULL. On failure *model is NULL and nothing is left open. */
NARU_API naru_status @PREFIX@_open(const naru_options *options, naru_model **model);

/* NARU_BUSY while contexts of it are open. NULL is fine. */
NARU_API naru_status @PREFIX@_close(naru_model *model);

/* The level of code that was chosen, such as "x86-64-avx2". */
NARU_API const char *@PREFIX@_level(const naru_model *model);

/* Bytes that a context takes for these sizes of the symbols (NULL where there are none). */
NARU_API naru_status @PREFIX@_memory(const naru_model *model, const int64_t *sizes, size_t *bytes);

/* What a call needs: its working memory for these sizes of the symbols. `memory`: the caller's, of at
 * least memory() bytes, which must outlive the context; NULL: the library takes its own. With sizes
 * NULL and symbols, resize() must come before run(). */
NARU_API naru_status @PREFIX@_new_context(naru_model *model, const int64_t *sizes, void *memory,
                                          size_t bytes, naru_context **context);
NARU_API naru_status @PREFIX@_free_context(naru_context *context);

/* Other sizes of the symbols, in their order. Takes more memory where they need it. */
NARU_API naru_status @PREFIX@_resize(naru_context *context, const int64_t *sizes);

/* The dims of an output: from resize() on, of late outputs after run(). */
NARU_API naru_status @PREFIX@_shape(const naru_context *context, int32_t output, int64_t *dims);

/* Runs the model on @UPPER@_INPUTS inputs and @UPPER@_OUTPUTS outputs, which must not overlap. Asks
 * for no memory, except for late outputs and loops. Equal inputs give equal bits, on any number of
 * threads. */
NARU_API naru_status @PREFIX@_run(naru_context *context, const naru_input *inputs,
                                  naru_output *outputs);

/* Runs the golden vector, whose outputs are those of naru's reference: from the library, or the file
 * beside it, or `golden`. `error` (may be NULL): the largest distance, 1 is what is allowed. */
NARU_API naru_status @PREFIX@_selftest(naru_model *model, const char *golden, double *error);

/* Why the last call of this thread failed. */
NARU_API const char *@PREFIX@_error(void);

/* The library as a table; see naru_library above. */
NARU_API const naru_library *@PREFIX@_library(void);
@PREDICT@
#ifdef __cplusplus
}

#if __cplusplus >= 201103L && (defined(__cpp_exceptions) || defined(__EXCEPTIONS))
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/* The same in C++: what is opened is closed, failures are exceptions. */
namespace naru {
namespace @PREFIX@ {

struct Error : std::runtime_error {
    naru_status status;
    explicit Error(naru_status s) : std::runtime_error(@PREFIX@_error()), status(s) {}
};

inline void check(naru_status status)
{
    if (status != NARU_SUCCESS)
        throw Error(status);
}

/* Code and weights; threads share one, and every Context keeps it alive. */
class Model {
public:
    explicit Model(const naru_options *options = nullptr)
    {
        naru_model *model = nullptr;
        check(@PREFIX@_open(options, &model));
        model_.reset(model, [](naru_model *m) { @PREFIX@_close(m); });
    }
    naru_model *get() const { return model_.get(); }
    std::string level() const { return @PREFIX@_level(get()); }
    double selftest() const
    {
        double error = 0;
        check(@PREFIX@_selftest(get(), nullptr, &error));
        return error;
    }

private:
    std::shared_ptr<naru_model> model_;
};

/* What one thread runs the model with. Without sizes, resize() must come before run(). */
class Context {
public:
    explicit Context(const Model &model, const std::vector<int64_t> &sizes = {}) : model_(model)
    {
        if (!sizes.empty())
            check_count(sizes);
        naru_context *context = nullptr;
        check(@PREFIX@_new_context(model.get(), sizes.empty() ? nullptr : sizes.data(), nullptr, 0,
                                   &context));
        context_.reset(context);
    }
    Context(Context &&) = default;
    Context &operator=(Context &&other)
    {
        context_ = std::move(other.context_); // before the model that it is one of
        model_ = std::move(other.model_);
        return *this;
    }
    naru_context *get() const { return context_.get(); }
    void resize(const std::vector<int64_t> &sizes)
    {
        check_count(sizes);
        check(@PREFIX@_resize(get(), sizes.data()));
    }
    std::vector<int64_t> shape(int32_t output) const
    {
        if (output < 0 || output >= @UPPER@_OUTPUTS)
            throw std::invalid_argument("@PREFIX@: there is no such output");
        std::vector<int64_t> dims(
            static_cast<size_t>(@PREFIX@_library()->output[output].rank));
        int64_t none = 0;
        check(@PREFIX@_shape(get(), output, dims.empty() ? &none : dims.data()));
        return dims;
    }
    void run(const std::vector<naru_input> &inputs, std::vector<naru_output> &outputs)
    {
        if (inputs.size() != @UPPER@_INPUTS || outputs.size() != @UPPER@_OUTPUTS)
            throw std::invalid_argument("@PREFIX@: a wrong number of inputs or outputs");
        check(@PREFIX@_run(get(), inputs.data(), outputs.data()));
    }

private:
    static void check_count(const std::vector<int64_t> &sizes)
    {
        if (sizes.size() != @UPPER@_SYMBOLS)
            throw std::invalid_argument("@PREFIX@: expected a size for each of the symbols");
    }
    struct Free {
        void operator()(naru_context *context) const { @PREFIX@_free_context(context); }
    };
    Model model_;
    std::unique_ptr<naru_context, Free> context_;
};

} // namespace @PREFIX@
} // namespace naru
#endif
#endif
#endif
