#include "alike.h"

#include <inttypes.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

static uint64_t hash_text(const char *text)
{
    return XXH64(text, strlen(text), 0);
}

/* The hash of the linker's build id, a note in the program itself: its name is "GNU". */
static int read_build_id(struct dl_phdr_info *object, size_t size, void *id_out)
{
    enum { NAME_BYTES = 4 };
    (void)size;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &object->dlpi_phdr[i];
        const char *at = (const char *)(object->dlpi_addr + header->p_vaddr);
        const char *end = at + header->p_memsz;
        while (header->p_type == PT_NOTE && at + sizeof(ElfW(Nhdr)) < end) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *name = at + sizeof *note;
            const char *data = name + (note->n_namesz + 3) / 4 * 4;
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == NAME_BYTES &&
                memcmp(name, "GNU", NAME_BYTES) == 0)
                *(uint64_t *)id_out = XXH64(data, note->n_descsz, 0);
            at = data + (note->n_descsz + 3) / 4 * 4;
        }
    }
    return 1; /* the program comes first; libraries may differ */
}

static uint64_t build_id(void)
{
    uint64_t id = 0;
    dl_iterate_phdr(read_build_id, &id);
    return id;
}

static void format(const struct dtr_option *option, const struct dtr_options *options,
    char *text_out, size_t text_bytes)
{
    dtr_option_format(option, options, text_out, text_bytes);
    if (option->apart)
        *text_out = '\0';
}

/* Which option it is matters only where there is one, so that is found out only then. */
static enum dtr_status check_options(
    struct dtr_world *world, const struct dtr_options *options, struct dtr_error *error)
{
    int count;
    const struct dtr_option *table = dtr_options_table(&count);
    char value[512];
    uint64_t hash = 0, usual;
    for (int i = 0; i < count; i++) {
        format(&table[i], options, value, sizeof value);
        hash = XXH64(value, strlen(value), hash);
    }
    if (dtr_world_same(world, hash))
        return DTR_OK;
    for (int i = 0; i < count; i++) {
        format(&table[i], options, value, sizeof value);
        if (dtr_world_differs(world, hash_text(value), &usual) && error->status == DTR_OK)
            dtr_error_set(error, DTR_LAUNCH,
                "it was started with --%s %s, other ranks were not; start all with the same "
                "options",
                table[i].name, value);
    }
    return error->status;
}

enum dtr_status dtr_alike_start(struct dtr_world *world, const struct dtr_options *options)
{
    struct dtr_error error = DTR_ERROR_NONE;
    uint64_t mine = build_id(), usual;
    if (dtr_world_differs(world, mine, &usual))
        dtr_error_set(&error, DTR_LAUNCH,
            "it runs another build of dtrain than the other ranks (%08" PRIx32 ", theirs %08" PRIx32
            "); start the same program on all hosts",
            (uint32_t)mine, (uint32_t)usual);
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    if (dtr_world_differs(world, hash_text(world->library), &usual))
        dtr_error_set(&error, DTR_LAUNCH,
            "its MPI library, %s, is not the other ranks'; use the same on all hosts",
            world->library);
    status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    check_options(world, options, &error);
    return dtr_world_agree(world, &error);
}

enum dtr_status dtr_alike_input(
    struct dtr_world *world, const struct dtr_model *model, const struct dtr_dataset_info *data)
{
    struct dtr_error error = DTR_ERROR_NONE;
    uint64_t usual;
    if (dtr_world_differs(world, hash_text(model->text), &usual))
        dtr_error_set(&error, DTR_INPUT,
            "its network is not the other ranks'; is the model file the same on all hosts?");
    enum dtr_status status = dtr_world_agree(world, &error);
    if (status != DTR_OK)
        return status;
    if (dtr_world_differs(world, XXH64(data->count, sizeof data->count, 0), &usual))
        dtr_error_set(&error, DTR_INPUT,
            "%s has %lld training and %lld test images, the other ranks' data has not; is it the "
            "same on all hosts?",
            data->description, (long long)data->count[DTR_TRAIN], (long long)data->count[DTR_TEST]);
    return dtr_world_agree(world, &error);
}
