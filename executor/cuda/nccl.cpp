#include <nccl.h>

#include <array>
#include <cstring>

#include "costmodel/error.h"
#include "executor/cuda/communicator.h"
#include "executor/cuda/shared_gpu.h"

namespace llmplan::cuda {
namespace {

void check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess && status != ncclInProgress)
    throw Error("E0601", Exit::rank_lost, std::string("NCCL: ") + ncclGetErrorString(status) + " (" + what + ")",
                "NCCL_DEBUG=INFO names the peer and the network; --resume continues from the last checkpoint");
}

ncclDataType_t data_type(DType t) {
  switch (t) {
    case DType::fp32: return ncclFloat32;
    case DType::bf16: return ncclBfloat16;
    case DType::fp16: return ncclFloat16;
    case DType::fp64: return ncclFloat64;
    case DType::int32: return ncclInt32;
    case DType::fp8_e4m3: return ncclFloat8e4m3;
    case DType::fp8_e5m2: return ncclFloat8e5m2;
  }
  return ncclUint8;
}

// One communicator per axis, split from the world's: color groups ranks, key orders them.
class Nccl final : public GpuCommunicator {
 public:
  Nccl(const std::string& unique_id, const Coordinates& where, std::shared_ptr<SharedGpu> peers)
      : where_(where), peers_(std::move(peers)) {
    ncclUniqueId id;
    if (unique_id.size() != sizeof id)
      throw Error("E0513", Exit::environment, "the rendezvous gave no NCCL identifier", "start all ranks with the same launcher");
    std::memcpy(&id, unique_id.data(), sizeof id);
    check(ncclCommInitRank(&world_, where.world, id, where.rank), "init");
    int stride = where.tp_size * where.dp_size;
    split(Axis::tp, where.rank / where.tp_size, where.tp);
    split(Axis::dp, where.pp * where.tp_size + where.tp, where.dp);
    bool end = where.pp == 0 || where.pp == where.pp_size - 1;
    split(Axis::embedding, end ? where.rank % stride : NCCL_SPLIT_NOCOLOR, where.pp);
    // The pipeline's two directions have a communicator each: they run on different streams.
    check(ncclCommSplit(world_, where.rank % stride, where.pp, &down_, nullptr), "split");
    check(ncclCommSplit(world_, where.rank % stride, where.pp, &up_, nullptr), "split");
  }
  ~Nccl() override {
    for (auto comm : axes_) if (comm) ncclCommDestroy(comm);
    if (down_) ncclCommDestroy(down_);
    if (up_) ncclCommDestroy(up_);
    if (world_) ncclCommDestroy(world_);
  }

  void collective(const Collective& op, const std::byte* in, std::byte* out, StreamHandle stream) override {
    ncclComm_t comm = op.axis == Axis::world ? world_ : axes_[static_cast<std::size_t>(op.axis)];
    int ranks = 0, me = 0;
    check(ncclCommCount(comm, &ranks), "count");
    check(ncclCommUserRank(comm, &me), "rank");
    // NCCL counts elements, of the part for the two sharded forms.
    std::size_t whole = static_cast<std::size_t>(op.size.value / size_of(op.dtype)), part = whole / static_cast<std::size_t>(ranks);
    std::size_t mine = static_cast<std::size_t>(me) * part * static_cast<std::size_t>(size_of(op.dtype));
    ncclDataType_t type = data_type(op.dtype);
    switch (op.kind) {
      case Collective::Kind::all_reduce:
        return check(ncclAllReduce(out, out, whole, type, ncclSum, comm, stream), "all_reduce");
      case Collective::Kind::all_gather:
        return check(ncclAllGather(in ? in : out + mine, out, part, type, comm, stream), "all_gather");
      case Collective::Kind::reduce_scatter:
        return check(ncclReduceScatter(in ? in : out, in ? out : out + mine, part, type, ncclSum, comm, stream), "reduce_scatter");
      case Collective::Kind::broadcast:
        return check(ncclBroadcast(out, out, whole, type, 0, comm, stream), "broadcast");
      case Collective::Kind::all_to_all: {
        std::size_t bytes = part * static_cast<std::size_t>(size_of(op.dtype));
        check(ncclGroupStart(), "group");
        for (int r = 0; r < ranks; ++r) {
          check(ncclSend(in + static_cast<std::size_t>(r) * bytes, part, type, r, comm, stream), "all_to_all");
          check(ncclRecv(out + static_cast<std::size_t>(r) * bytes, part, type, r, comm, stream), "all_to_all");
        }
        return check(ncclGroupEnd(), "group");
      }
    }
  }
  void send(const Send& op, const std::byte* x, StreamHandle stream) override {
    check(ncclSend(x, static_cast<std::size_t>(op.size.value), ncclUint8, op.stage, op.stage > where_.pp ? down_ : up_, stream), "send");
  }
  void recv(const Recv& op, std::byte* x, StreamHandle stream) override {
    check(ncclRecv(x, static_cast<std::size_t>(op.size.value), ncclUint8, op.stage, op.stage < where_.pp ? down_ : up_, stream), "recv");
  }
  void check() override {
    if (peers_) peers_->check();
    for (ncclComm_t comm : {world_, down_, up_, axes_[static_cast<std::size_t>(Axis::tp)], axes_[static_cast<std::size_t>(Axis::dp)]}) {
      if (!comm) continue;
      ncclResult_t status = ncclSuccess;
      ncclCommGetAsyncError(comm, &status);
      cuda::check(status, "asynchronous");
    }
  }
  bool enqueues_only() const override { return true; }
  // Each rank ends its own communicators, in its own thread; peers learn of it from check().
  void abort(const std::string& reason) noexcept override {
    if (peers_) peers_->abort(reason);
    for (auto& comm : axes_) { if (comm) ncclCommAbort(comm); comm = nullptr; }
    for (ncclComm_t* comm : {&down_, &up_, &world_}) { if (*comm) ncclCommAbort(*comm); *comm = nullptr; }
  }

 private:
  void split(Axis axis, int color, int key) {
    check(ncclCommSplit(world_, color, key, &axes_[static_cast<std::size_t>(axis)], nullptr), "split");
  }
  static void check(ncclResult_t status, const char* what) { cuda::check(status, what); }

  Coordinates where_;
  std::shared_ptr<SharedGpu> peers_;
  ncclComm_t world_ = nullptr, down_ = nullptr, up_ = nullptr;
  std::array<ncclComm_t, 6> axes_{};  // by Axis
};

}  // namespace

std::string nccl_unique_id() {
  ncclUniqueId id;
  check(ncclGetUniqueId(&id), "unique id");
  return std::string(reinterpret_cast<const char*>(&id), sizeof id);
}
std::unique_ptr<GpuCommunicator> nccl_communicator(const std::string& unique_id, const Coordinates& where,
                                                   std::shared_ptr<SharedGpu> peers) {
  return std::make_unique<Nccl>(unique_id, where, std::move(peers));
}
bool have_nccl() { return true; }
std::string nccl_version() {
  int version = 0;
  ncclGetVersion(&version);
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace llmplan::cuda
