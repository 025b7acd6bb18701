// Streams, events, capture and graphs.
//
// A stream is a queue. Its work runs when somebody waits for it: the host, or another stream through an event. Streams
// never run otherwise, so work that was not waited for is work that did not happen.
#include <chrono>

#include "driver.h"

namespace driver {

static Handles<Stream> streams;

// A place in a stream's queue, which an event marks.
struct Moment {
    Stream* stream = nullptr;
    bool done = false;  // the stream is past it
    double milliseconds = 0;
    std::shared_ptr<Graph> graph;  // recorded in a capture
};
struct Event {
    Context* context;
    bool timed;
    std::shared_ptr<Moment> moment;  // null: not recorded
};
static Handles<Event> events;
static Handles<std::shared_ptr<Graph>> graphs, executables;

Stream* find_stream(Context& context, void* handle) {
    if (handle == nullptr || handle == reinterpret_cast<void*>(1)) return &context.null_stream;
    Stream* const stream = streams.find(handle);
    return stream && stream->context == &context ? stream : nullptr;
}

static void run_next(Stream& stream) {
    const Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    // A broken context does nothing more.
    if (!stream.context->error) operation();
}

void run(Stream& stream) {
    while (!stream.queue.empty()) run_next(stream);
}

void run_all(Context& context) {
    run(context.null_stream);
    streams.remove_if([&](Stream& stream) {
        if (stream.context == &context) run(stream);
        return false;
    });
}

void destroy_streams(Context& context) {
    events.remove_if([&](const Event& event) { return event.context == &context; });
    streams.remove_if([&](Stream& stream) { return stream.context == &context; });
}

// An event is always behind all that its stream waits for, so two streams never wait for each other here.
static void wait_for(const Moment& moment) {
    while (!moment.done && !moment.stream->queue.empty()) run_next(*moment.stream);
}

Result submit(Stream& stream, Operation operation) {
    if (stream.invalidated) return ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream.graph) {
        stream.graph->operations.push_back(std::move(operation));
        return SUCCESS;
    }
    stream.queue.push_back(std::move(operation));
    if (values.eager) run(stream);
    return stream.context->error;
}

bool start_kernel(Context& context) {
    if (!is_due(values.fault_kernel)) return true;
    context.error = ERROR_ILLEGAL_ADDRESS;
    return false;
}

enum CaptureMode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };
// What the calling thread lets captures forbid it.
static thread_local int thread_mode = GLOBAL;

Result refuse_while_capturing(Context& context) {
    Result result = SUCCESS;
    if (thread_mode == RELAXED) return result;
    for (Stream* stream : context.capturing) {
        const bool other_thread = stream->thread != std::this_thread::get_id();
        if (stream->mode == RELAXED) continue;
        if (other_thread && (stream->mode == THREAD_LOCAL || thread_mode == THREAD_LOCAL)) continue;
        stream->invalidated = true;
        result = ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return result;
}

static double now() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// 1: CU_STREAM_NON_BLOCKING. Streams that wait for the null stream are not modelled.
static Result create_stream(Context& context, void** handle, unsigned flags) {
    if (flags != 1) return ERROR_NOT_SUPPORTED;
    Stream stream;
    stream.context = &context;
    *handle = streams.add(std::move(stream));
    return SUCCESS;
}

}  // namespace driver

using namespace driver;

API Result cuStreamCreate(void** handle, unsigned flags) {
    ENTER_CONTEXT;
    return create_stream(*context, handle, flags);
}

API Result cuStreamCreateWithPriority(void** handle, unsigned flags, int) {
    ENTER_CONTEXT;
    return create_stream(*context, handle, flags);
}

// What was submitted still happens.
API Result cuStreamDestroy_v2(void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = streams.find(handle);
    if (!stream || stream->context != context) return ERROR_INVALID_HANDLE;
    run(*stream);
    context->capturing.erase(stream);
    streams.remove(stream);
    return context->error;
}

API Result cuStreamSynchronize(void* handle) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (stream->graph) {
        stream->invalidated = true;
        return ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    values.synchronizations++;
    run(*stream);
    return context->error;
}

API Result cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    const Event* const event = events.find(event_handle);
    if (!stream || !event) return ERROR_INVALID_HANDLE;
    if (!event->moment) return SUCCESS;
    // A capture does not spread to other streams here, and nothing outside may wait for what is inside, or inside for
    // what is outside.
    if (event->moment->graph != stream->graph) {
        if (stream->graph) stream->invalidated = true;
        return ERROR_STREAM_CAPTURE_ISOLATION;
    }
    if (stream->graph) return SUCCESS;
    return submit(*stream, [moment = event->moment] { wait_for(*moment); });
}

API Result cuEventCreate(void** handle, unsigned flags) {
    ENTER_CONTEXT;
    constexpr unsigned DISABLE_TIMING = 2;
    *handle = events.add({context, (flags & DISABLE_TIMING) == 0, nullptr});
    return SUCCESS;
}

API Result cuEventDestroy_v2(void* handle) {
    ENTER_CONTEXT;
    return events.remove(handle) ? SUCCESS : ERROR_INVALID_HANDLE;
}

API Result cuEventRecord(void* handle, void* stream_handle) {
    ENTER_CONTEXT;
    Event* const event = events.find(handle);
    Stream* const stream = find_stream(*context, stream_handle);
    if (!event || !stream) return ERROR_INVALID_HANDLE;
    const auto moment = std::make_shared<Moment>();
    moment->stream = stream;
    moment->graph = stream->graph;
    event->moment = moment;
    if (stream->graph) return SUCCESS;
    return submit(*stream, [moment] {
        moment->done = true;
        moment->milliseconds = now();
    });
}

// Each query lets the stream do one thing more, so that polling comes to an end.
API Result cuEventQuery(void* handle) {
    ENTER_CONTEXT;
    const Event* const event = events.find(handle);
    if (!event) return ERROR_INVALID_HANDLE;
    if (!event->moment || event->moment->done) return SUCCESS;
    if (event->moment->graph) return ERROR_CAPTURED_EVENT;
    run_next(*event->moment->stream);
    return context->error ? context->error : ERROR_NOT_READY;
}

API Result cuEventSynchronize(void* handle) {
    ENTER_CONTEXT;
    const Event* const event = events.find(handle);
    if (!event) return ERROR_INVALID_HANDLE;
    if (!event->moment) return SUCCESS;
    if (event->moment->graph) return ERROR_CAPTURED_EVENT;
    values.synchronizations++;
    wait_for(*event->moment);
    return context->error;
}

static Result elapsed(float* milliseconds, void* from_handle, void* to_handle) {
    ENTER_CONTEXT;
    const Event *const from = events.find(from_handle), *const to = events.find(to_handle);
    if (!from || !to || !from->timed || !to->timed || !from->moment || !to->moment) return ERROR_INVALID_HANDLE;
    if (!from->moment->done || !to->moment->done) return ERROR_NOT_READY;
    *milliseconds = float(to->moment->milliseconds - from->moment->milliseconds);
    return SUCCESS;
}
API Result cuEventElapsedTime(float* milliseconds, void* from, void* to) { return elapsed(milliseconds, from, to); }
API Result cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) { return elapsed(milliseconds, from, to); }

API Result cuThreadExchangeStreamCaptureMode(int* mode) {
    ENTER;
    if (*mode < GLOBAL || *mode > RELAXED) return ERROR_INVALID_VALUE;
    std::swap(*mode, thread_mode);
    return SUCCESS;
}

API Result cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER_CONTEXT;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (mode < GLOBAL || mode > RELAXED) return ERROR_INVALID_VALUE;
    if (stream == &context->null_stream) return ERROR_STREAM_CAPTURE_UNSUPPORTED;
    if (stream->graph) return ERROR_ILLEGAL_STATE;
    stream->graph = std::make_shared<Graph>();
    stream->mode = mode;
    stream->thread = std::this_thread::get_id();
    context->capturing.insert(stream);
    return SUCCESS;
}

API Result cuStreamEndCapture(void* handle, void** graph) {
    ENTER_CONTEXT;
    *graph = nullptr;
    Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    if (!stream->graph) return ERROR_ILLEGAL_STATE;
    if (stream->mode != RELAXED && stream->thread != std::this_thread::get_id()) {
        return ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    context->capturing.erase(stream);
    const bool invalidated = stream->invalidated;
    stream->invalidated = false;
    const auto captured = std::move(stream->graph);
    stream->graph = nullptr;
    if (invalidated) return ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = graphs.add(captured);
    return SUCCESS;
}

API Result cuStreamIsCapturing(void* handle, int* status) {
    ENTER_CONTEXT;
    const Stream* const stream = find_stream(*context, handle);
    if (!stream) return ERROR_INVALID_HANDLE;
    *status = !stream->graph ? 0 : stream->invalidated ? 2 : 1;
    return SUCCESS;
}

// Flags choose where the graph is uploaded from and by what priorities: nothing that shows.
API Result cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER_CONTEXT;
    const auto* const captured = graphs.find(graph);
    if (!captured) return ERROR_INVALID_HANDLE;
    *executable = executables.add(*captured);
    return SUCCESS;
}

API Result cuGraphUpload(void* executable, void* stream) {
    ENTER_CONTEXT;
    return executables.find(executable) && find_stream(*context, stream) ? SUCCESS : ERROR_INVALID_HANDLE;
}

API Result cuGraphLaunch(void* executable, void* handle) {
    ENTER_CONTEXT;
    const auto* const captured = executables.find(executable);
    Stream* const stream = find_stream(*context, handle);
    if (!captured || !stream) return ERROR_INVALID_HANDLE;
    values.graph_launches++;
    return submit(*stream, [graph = *captured, context] {
        for (const Operation& operation : graph->operations) {
            if (!context->error) operation();
        }
    });
}

API Result cuGraphDestroy(void* graph) {
    ENTER_CONTEXT;
    return graphs.remove(graph) ? SUCCESS : ERROR_INVALID_HANDLE;
}

API Result cuGraphExecDestroy(void* executable) {
    ENTER_CONTEXT;
    return executables.remove(executable) ? SUCCESS : ERROR_INVALID_HANDLE;
}
