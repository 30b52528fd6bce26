//! One contract, every store: what `Source` and `Target` promise, asked of each of them.
//!
//! `reading` and `writing` are the promises, `stands` the stores, each filled with the same content. A
//! store that is missing on this machine (zot, always optional) is passed over.

mod reading;
mod stands;
mod writing;

/// A test for every promise, for every store.
macro_rules! contract {
    ($($promises:ident { $($promise:ident)+ } of { $($stand:ident)+ })+) => { $(
        contract!(@stores $promises [$($promise)+] $($stand)+);
    )+ };
    (@stores $promises:ident $all:tt $($stand:ident)+) => { $(
        contract!(@tests $promises $stand $all);
    )+ };
    (@tests $promises:ident $stand:ident [$($promise:ident)+]) => {
        mod $stand { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let stand: Option<crate::stands::Stand> = crate::stands::$stand().into();
                if let Some(stand) = stand {
                    crate::$promises::$promise(&stand).await;
                }
            }
        )+ }
    };
}

mod of_sources {
    contract! {
        reading {
            a_name_leads_to_its_manifest
            what_is_missing_is_not_found
            a_manifest_beyond_the_limit_is_too_large
            a_blob_is_no_manifest
            a_range_gives_exactly_its_bytes
            no_bytes_are_no_bytes
            what_lies_outside_is_refused
            a_forged_size_never_reads_as_content
            a_reader_reads_what_fetch_fetches
            a_completed_reader_is_right_as_a_file
            many_at_once_each_get_their_own
            tags_are_all_there
            referrers_are_all_there_once
            referrers_can_be_filtered
            nobody_about_it_is_no_error
        } of {
            memory layout
            in_process in_process_redirecting in_process_paged_and_guarded in_process_with_shy_tokens
            in_process_without_referrers
            distribution zot
            cached_memory cached_layout cached_in_process cached_distribution cached_zot
        }
    }
}

mod of_the_cache_alone {
    contract! {
        reading {
            a_name_leads_to_its_manifest
            a_blob_is_no_manifest
            a_range_gives_exactly_its_bytes
            no_bytes_are_no_bytes
            what_lies_outside_is_refused
            a_reader_reads_what_fetch_fetches
            a_completed_reader_is_right_as_a_file
            many_at_once_each_get_their_own
            tags_are_all_there
            what_was_never_seen_is_offline
        } of { offline }
    }
}

mod of_targets {
    contract! {
        writing {
            what_was_pushed_is_there
            every_kind_of_body_can_be_pushed
            what_does_not_match_is_refused_and_leaves_nothing
            a_tag_moves_and_nothing_else_does
            a_tag_needs_its_manifest
            many_writers_lose_nothing
            publishing_is_pushing_and_tagging
            what_was_deleted_is_gone
        } of {
            memory layout
            in_process in_process_redirecting in_process_paged_and_guarded in_process_with_shy_tokens
            in_process_without_referrers
            distribution zot
        }
    }
}
