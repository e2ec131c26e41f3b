/* dtrain info FILE: what a checkpoint, a data set or a model file holds. */
#include "commands.h"
#include "dtrain/checkpoint.h"
#include "dtrain/dataset.h"
#include "dtrain/log.h"
#include "dtrain/model.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_folder(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

static bool has_latest(const char *folder)
{
    char path[4096];
    struct stat status;
    int length = snprintf(path, sizeof path, "%s/latest", folder);
    return length < (int)sizeof path && stat(path, &status) == 0;
}

static bool is_hdf5(const char *path)
{
    static const char signature[8] = "\211HDF\r\n\032\n";
    char start[8];
    FILE *file = fopen(path, "rb");
    bool found = file != NULL && fread(start, 1, sizeof start, file) == sizeof start &&
                 memcmp(start, signature, sizeof start) == 0;
    if (file != NULL)
        fclose(file);
    return found;
}

static enum dtr_status print_dataset(const char *where, struct dtr_error *error)
{
    struct dtr_dataset *dataset;
    struct dtr_options defaults;
    dtr_options_default(&defaults);
    if (dtr_dataset_open(where, (uint64_t)defaults.seed, &dataset, error) != DTR_OK)
        return error->status;
    const struct dtr_dataset_info *info = dtr_dataset_info(dataset);
    dtr_print("Data: %s\nImages: %lldx%lldx%lld, 8 bits a channel\nTraining: %lld\nTest: %lld\n",
        info->description, (long long)info->shape.h, (long long)info->shape.w,
        (long long)info->shape.c, (long long)info->count[DTR_TRAIN],
        (long long)info->count[DTR_TEST]);
    dtr_dataset_close(dataset);
    return DTR_OK;
}

static enum dtr_status print_model(const char *name, struct dtr_error *error)
{
    struct dtr_model *model;
    if (dtr_model_load(name, &model, error) != DTR_OK)
        return error->status;
    dtr_print("Model: %s\nInput: %lldx%lldx%lld\n", name, (long long)model->input.h,
        (long long)model->input.w, (long long)model->input.c);
    for (int i = 0; i < model->layer_count; i++) {
        const struct dtr_layer *layer = &model->layers[i];
        int64_t parameters = 0;
        if (layer->kernel >= 0)
            parameters = model->tensors[layer->kernel].count + model->tensors[layer->bias].count;
        dtr_print("    %-10s %lldx%lldx%lld, %lld parameters\n", layer->name,
            (long long)layer->out.h, (long long)layer->out.w, (long long)layer->out.c,
            (long long)parameters);
    }
    dtr_print("Parameters: %lld\n", (long long)model->parameter_count);
    dtr_model_free(model);
    return DTR_OK;
}

int dtr_command_info(int argc, char **argv, int first)
{
    struct dtr_error error = DTR_ERROR_NONE;
    if (first + 1 == argc && strcmp(argv[first], "--devices") == 0)
        return dtr_command_devices();
    if (first + 1 != argc || strncmp(argv[first], "--", 2) == 0) {
        dtr_complain("info takes one word: dtrain info CHECKPOINT | DATA | MODEL | --devices");
        return DTR_USAGE;
    }
    const char *what = argv[first];
    if (is_hdf5(what) || (is_folder(what) && has_latest(what)))
        dtr_checkpoint_print(what, &error);
    else if (is_folder(what) || strcmp(what, "synthetic") == 0 ||
             strncmp(what, "synthetic:", 10) == 0)
        print_dataset(what, &error);
    else
        print_model(what, &error);
    if (error.status != DTR_OK)
        dtr_complain("%s", error.message);
    return (int)error.status;
}
