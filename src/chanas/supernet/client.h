#pragma once
// The supernet as programs without LibTorch see it. Each function runs one job of the program
// chanas-nn in a child process, passes its progress on, and returns its result or its error with
// the code and message it had there. No LibTorch is linked and no image is read here.
//
//   SupernetFiles files{join_path(run_dir, "supernet")};
//   CHANAS_ASSIGN_OR_RETURN(TrainResult trained,
//                           train_supernet(space, data, {}, files, on_progress));
//   CHANAS_ASSIGN_OR_RETURN(std::vector<double> accuracy,
//                           evaluate_subnets(space, data, files, archs, {}, on_accuracy));
//
// Cancellation (base/cancellation.h): the child is asked to save and stop, then the call returns
// kCancelled; the same call continues a training.
//
// The network's input, everywhere and for every data set: float32 [h, w, 3] (NHWC), red first,
//   (pixel / 255 - kInputMean) / kInputStd,     pixel in 0..255, constants in data/config.h.
//
// Errors of all functions, besides those named below:
//   kInvalidArgument, kNotFound, kDataLoss  the data or a setting; the message says how to mend it
//   kUnavailable                            chanas-nn is missing or died (killed, out of memory)
//   kResourceExhausted                      disk full
//   kCancelled                              interrupted, state saved
// Thread safe; jobs on one folder must not overlap (a second training gets kAborted).

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "chanas/arch/space.h"
#include "chanas/base/status.h"
#include "chanas/data/config.h"

namespace chanas {

struct SupernetFiles {
  std::string folder;   // checkpoints of one training; made when missing
  std::string program;  // chanas-nn; empty: the one beside the running program
};

// Reads and decodes everything. `space` gives the default of DataConfig::size; its class count is
// not compared (all other jobs refuse a space whose class count is not that of the data).
StatusOr<DataInfo> inspect_data(const ArchSpace& space, const DataConfig& data,
                                const std::string& program = "");

// --- Training -----------------------------------------------------------------------------------

struct TrainConfig {
  // Length: `epochs` if > 0, else `budget_s` seconds of wall clock (loading images included; the
  // step count is fixed from the speed of the first steps and kept for good, so that a resumed
  // training has the same plan), else 12 epochs.
  double epochs = 0;
  double budget_s = 0;
  int batch_size = 64;
  // The paper's optimiser: SGD with Nesterov momentum 0.9, 2.5 for 2048 images.
  double learning_rate = 0.08;  // peak, for 64 images; scaled with the batch
  double warmup_share = 0.1;    // of each stage's steps
  double weight_decay = 3e-5;   // not on BN and biases
  double label_smoothing = 0.1;
  double clip = 1.0;  // largest norm of the gradient; 0: no clipping
  // "sandwich": per step the largest network on labels, random ones and the smallest on its
  // outputs. "progressive": the largest network first, then smaller kernels, depths, ratios and
  // widths join in stages, taught by it (supernet/plan.h).
  std::string trainer = "sandwich";
  int random_nets = 2;               // of a sandwich
  std::string sampling = "uniform";  // of random networks; "macs": bands of multiply-adds, evenly
  // How networks learn from another: "soft": cross entropy against its outputs; "alpha": adaptive
  // alpha-divergence, ratios clipped at alpha_clip.
  std::string distillation = "soft";
  double alpha_clip = 5;
  // Sandwich: this share of the steps on the largest network alone, then its channels are sorted by
  // importance. 0: not. (Progressive training always sorts.)
  double sort_share = 0;
  // "plain": loss L on the train part. "data_matched": the same on train and gap part together.
  // The others add gap_lambda times a term of L and G, the loss on the gap part: "gap": |G - L|
  // (paper eq. 3). "gap_one_sided": max(0, G - L). "gap_stop_train", "gap_stop_gap": |G - L|
  // without gradient through L or through G.
  std::string loss = "plain";
  double gap_lambda = 0.45;
  // "light+policy+cutout" and the like, see data/augmentation.h.
  std::string augment = "light";
  bool kernel_transform = true;  // learned 7 -> 5 -> 3 matrices; false: centre crop
  uint64_t seed = 1;
  int threads = 0;  // 0: all cores. Resuming with another number is allowed, but not bit-exact.
  double checkpoint_every_s = 30;
  // Several processes: the words of a command that starts chanas-nn on all ranks, such as
  // "mpirun -n 4" or "torchrun --no-python --nproc-per-node 8"; empty: one process. `batch_size` is
  // that of all ranks together; files.folder is on a disk that all of them see. When a rank is
  // lost, all are started again from the last checkpoint, at most max_restarts times.
  std::string launcher;
  int max_restarts = 3;
  std::string device = "auto";        // auto (a GPU where there is one), cpu, cuda
  std::string precision = "float32";  // or bfloat16 (mixed precision, on GPUs)
  std::string collective = "auto";    // sums over the ranks: auto, single, mpi, nccl
};

// All values of TrainConfig::loss.
std::vector<std::string> loss_names();

struct TrainProgress {
  std::string stage;            // of the trainer's plan: "sandwich", "depth 3,4"
  int64_t step = 0, steps = 0;  // steps is an estimate (rising) until `planned`
  bool planned = false;
  double epoch = 0;
  double images_per_s = 0;
  double loss = 0;  // on labels, of the largest (progressive: a random) net; mean of the last steps
  double gap = 0;   // losses with a gap: mean of (loss on gap part - loss) over the last steps
  double negative_gap_share = 0;  // of them
  double input_wait = 0;          // share of the time that steps waited for their images
  double gradient_norm = 0;       // before TrainConfig::clip; mean over the last steps
  double learning_rate = 0;
  // On ranking images, BN recalibrated; -1: not taken here. The random net is the same all along.
  double accuracy_largest = -1, accuracy_smallest = -1, accuracy_random = -1;
  double seconds_left = 0;
};

struct TrainResult {
  int64_t steps = 0;
  double epochs = 0;
  double seconds = 0;                                  // training itself, all attempts together
  int64_t params = 0;                                  // of the supernet, kernel matrices included
  bool continued = false;                              // from a checkpoint
  double accuracy_largest = 0, accuracy_smallest = 0;  // ranking part, BN recalibrated
  double accuracy_test = -1;      // of a network trained alone, on the test part
  double mean_gap = 0;            // of the gap loss: mean of (loss on gap part - loss); else 0
  double negative_gap_share = 0;  // share of steps with a negative gap
  int rollbacks = 0;              // to an earlier state: the loss was not finite, or back at chance
  // About a hundred points, evenly spread, those before a continuation too.
  std::vector<TrainProgress> history;
};

// Trains, or continues from files.folder, or returns at once when the training there is complete.
// `on_progress` is called from this thread a few times a second.
// kInvalidArgument: files.folder holds a training of another space, data or setting; the message
// says which, choose another folder or delete it. kDataLoss: no checkpoint there can be read.
StatusOr<TrainResult> train_supernet(const ArchSpace& space, const DataConfig& data,
                                     const TrainConfig& config, const SupernetFiles& files,
                                     const std::function<void(const TrainProgress&)>& on_progress);

// The same for one network from scratch, by the same recipe (its loss on labels), in a folder of
// its own: what the supernet's accuracy of it is compared with. Its accuracies of the ranking part
// are in accuracy_largest (and _smallest), that of the test part in accuracy_test.
StatusOr<TrainResult> train_subnet(const ArchSpace& space, const DataConfig& data,
                                   const TrainConfig& config, const Arch& arch,
                                   const SupernetFiles& files,
                                   const std::function<void(const TrainProgress&)>& on_progress);

// --- Evaluation ---------------------------------------------------------------------------------

struct EvaluateConfig {
  std::string part = "ranking";     // or "test"
  int64_t images = 0;               // the first of the part, classes mixed; 0: all
  int recalibration_images = 2000;  // of the train part, for BN statistics; before every subnet
  int threads = 0;
  std::string device = "auto";  // as in TrainConfig; accuracies are the same to rounding
};

// Accuracy (fraction) of each arch with the weights in files.folder; `on_accuracy(index, accuracy)`
// is called in order as each is done, so that a caller can keep what it has. An arch's accuracy
// does not depend on the others in the call. kNotFound: nothing was trained in files.folder.
StatusOr<std::vector<double>> evaluate_subnets(
    const ArchSpace& space, const DataConfig& data, const SupernetFiles& files,
    const std::vector<Arch>& archs, const EvaluateConfig& config,
    const std::function<void(size_t index, double accuracy)>& on_accuracy);

// --- Accuracy predictor -------------------------------------------------------------------------

struct PredictorConfig {
  int hidden = 400;  // width of the three hidden layers
  int epochs = 200;
  double learning_rate = 1e-3;
  double weight_decay = 1e-4;
  int folds = 5;  // of the cross-validation
  uint64_t seed = 1;
  int threads = 0;
};

struct PredictorSample {
  Arch arch;
  double accuracy = 0;
};

// Cross-validated: each sample is predicted by a model that was not fitted on it.
struct PredictorFit {
  int samples = 0;
  double rmse = 0, kendall_tau = 0, spearman = 0;
  std::vector<double> predicted;  // cross-validated, one per sample
};

// Fits on all samples and writes the safetensors file that AccuracyPredictor::load reads
// (predict/accuracy.h). `on_progress` gets a fraction in [0, 1]. kInvalidArgument: fewer than 10
// samples, or an accuracy outside [0, 1].
StatusOr<PredictorFit> fit_predictor(const ArchSpace& space,
                                     const std::vector<PredictorSample>& samples,
                                     const PredictorConfig& config, const std::string& path,
                                     const std::function<void(double)>& on_progress = {},
                                     const std::string& program = "");

// --- Export -------------------------------------------------------------------------------------

struct SubnetExport {
  std::string weights_path;    // safetensors, names and shapes of lower(to_network(space, arch))
  std::string reference_path;  // safetensors: "input" [n, r, r, 3], "logits" [n, classes]
  double accuracy = 0;         // of the exported weights on the whole test part
  int64_t test_images = 0;
  int64_t params = 0;
};

// Writes `<folder>/weights.safetensors` (kernel matrices applied, widths cut, BN statistics
// recalibrated and unfused) and `<folder>/reference.safetensors` (the first test images and their
// logits by LibTorch, four of them).
StatusOr<SubnetExport> export_subnet(const ArchSpace& space, const DataConfig& data,
                                     const SupernetFiles& files, const Arch& arch,
                                     const std::string& folder, int recalibration_images = 2000,
                                     int threads = 0);

}  // namespace chanas
